"""Every promise of the contract, for every shipped quantizer, in every way that this machine runs Keras."""

from trainable_quantizers_core.conformance.suite import CaseTrials, parametrize_with_checks


@parametrize_with_checks("trainable_quantizers_keras")
def test_contract(trial: CaseTrials) -> None:
    trial.run()
