"""Every promise of the contract, for every shipped quantizer, in every way that this machine runs Keras."""

import pytest
from trainable_quantizers_core.conformance.suite import CaseTrials, parametrize_with_checks


@parametrize_with_checks("trainable_quantizers_keras", marks_of_the_rest=pytest.mark.long)
def test_contract(trial: CaseTrials) -> None:
    trial.run()
