"""Every promise of the contract, for every shipped quantizer, in every way that this machine runs PyTorch."""

from trainable_quantizers_core.conformance.suite import CaseTrials, parametrize_with_checks


@parametrize_with_checks("trainable_quantizers_torch")
def test_contract(trial: CaseTrials) -> None:
    trial.run()
