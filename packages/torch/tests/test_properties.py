"""The contract, searched for counterexamples."""

from hypothesis import HealthCheck, given, settings
from trainable_quantizers_core import get_trainable_quantizer_class
from trainable_quantizers_core.conformance import load_adapters
from trainable_quantizers_core.conformance.properties import cases, check_arbitrary

ADAPTER = load_adapters("trainable_quantizers_torch")[0]


@settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(cases())
def test_contract_for_arbitrary_parameters_shapes_and_inputs(drawn):
    case, values, x = drawn
    found = get_trainable_quantizer_class(case.target, case.identifier, case.method, ADAPTER.base_class)
    check_arbitrary(ADAPTER, found, case, values, x)
