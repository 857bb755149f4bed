"""Keras and PyTorch compared with each other, without the oracle: outputs bit for bit off the ties."""

import numpy as np
import pytest
import trainable_quantizers_keras as keras_package
import trainable_quantizers_torch as torch_package
from trainable_quantizers_core.conformance.cases import Case, all_cases
from trainable_quantizers_core.conformance.oracle.registry import expect
from trainable_quantizers_core.conformance.subject import Subject, updated
from trainable_quantizers_core.conformance.suite import load_adapters

TORCH, KERAS = (load_adapters(f"trainable_quantizers_{name}")[0] for name in ("torch", "keras"))
PACKAGES = {TORCH: torch_package, KERAS: keras_package}


def subject(adapter, case: Case) -> Subject:
    found = PACKAGES[adapter].get_trainable_quantizer_class(
        case.target, case.identifier, case.method, adapter.base_class
    )
    return Subject(adapter, found, case)


@pytest.mark.parametrize("case", list(all_cases()), ids=str)
def test_outputs_and_gradients_agree(case):
    pair = [subject(adapter, case) for adapter in (TORCH, KERAS)]
    for change in (False, True):
        if change:
            for one in pair:
                one.assign(updated(one.values))
        (torch_run, expected), (keras_run, _) = (one.run() for one in pair)
        decided = ~(expected.near_tie | expected.overflow)
        same = torch_run.output.view(np.int32) == keras_run.output.view(np.int32)
        both_zero = (torch_run.output == 0) & (keras_run.output == 0)  # TensorFlow's zeros may be negative
        x = pair[0].x
        assert np.all(same | both_zero | ~decided), x[~(same | both_zero) & decided][:5]
        apart = np.abs(torch_run.grad_x - keras_run.grad_x) > expected.tolerance_x
        assert not np.any(apart & ~expected.near_end), x[apart][:5]
        tolerances = expect(case, pair[0].values, x, np.ones_like(x)).tolerances
        for name, gradient in torch_run.gradients.items():
            if gradient is None:  # of an attention that does not learn, because there is no schedule
                assert name == "attention" and keras_run.gradients[name] is None
                continue
            terms = tolerances.get(name, 1e-6) / 1e-6  # about the sum of |terms|; each alpha has one
            difference = np.abs(gradient - keras_run.gradients[name])
            assert np.all(difference <= 1e-6 * np.maximum(np.abs(gradient), terms)), (
                name,
                gradient,
                keras_run.gradients,
            )


def test_both_packages_offer_the_same_fourteen_quantizers():
    names = [
        {n for n in dir(package) if n.endswith("TrainableQuantizer") and n[:3] in ("STE", "LSQ", "Ada", "DQA")}
        for package in PACKAGES.values()
    ]
    assert names[0] == names[1]
    assert len(names[0]) == 14


@pytest.mark.parametrize("case", [case for case in all_cases() if case.num_bits == 4], ids=str)
def test_the_same_configuration_file_serves_both(case, tmp_path):
    path = tmp_path / "quantizer.json"
    path.write_text(case.config().to_json())
    outputs = []
    for adapter in (TORCH, KERAS):
        config = type(case.config()).from_json(path.read_text())
        assert config == case.config()
        one = subject(adapter, case)
        one.quantizer = type(one.quantizer)(config)
        adapter.build(one.quantizer, case.tensor_shape)
        x = np.random.default_rng(0).normal(size=(4, 5, 3)).astype(np.float32)
        outputs.append(one.output(x=x))
    assert np.array_equal(*outputs)
