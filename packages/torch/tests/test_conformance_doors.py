"""The three doors of the suite: the decorator for pytest, the iterator, and the command."""

import json

import pytest
import trainable_quantizers_torch as tq
from trainable_quantizers_core import QuantizerError
from trainable_quantizers_core.conformance import (
    iterate_trials,
    load_adapters,
    parametrize_with_checks,
    register_oracle,
)
from trainable_quantizers_core.conformance.__main__ import main
from trainable_quantizers_core.conformance.oracle import expect
from trainable_quantizers_core.conformance.report import run_all, show, summary

EAGER = load_adapters("trainable_quantizers_torch")[:1]
LSQ = tq.LSQSymmetricActivationTrainableQuantizer


class Shifted(LSQ):
    def __call__(self, inputs, training=True):
        return super().__call__(inputs, training) + 0.01


def trials(quantizer_class, promise, expected_failures=None):
    every = iterate_trials(EAGER, [quantizer_class], expected_failures)
    return [trial for trial in every if trial.promise == promise and trial.case.num_bits == 4]


def test_the_iterator_yields_every_promise_of_every_case():
    found = list(iterate_trials(EAGER))
    assert len({trial.case for trial in found}) == 170
    assert len({trial.promise for trial in found}) == 17
    ties = [trial.case for trial in found if trial.promise == "ties"]
    assert len(ties) == 20 and all(case.is_activation and case.power_of_two for case in ties)
    assert len({str(trial) for trial in found}) == len(found) == 170 * 16 + len(ties)


def test_an_expected_failure_passes_and_a_stale_one_fails():
    for trial in trials(Shifted, "grid", {(Shifted, "grid"): "adds a constant"}):
        trial.run()
    for trial in trials(LSQ, "grid", {(LSQ, "grid"): "adds a constant"}):
        with pytest.raises(AssertionError, match=r"expected to fail \(adds a constant\): remove the expectation"):
            trial.run()


def test_the_decorator_marks_expected_failures_strictly_with_their_reason():
    mark = parametrize_with_checks("trainable_quantizers_torch", [Shifted], {(Shifted, "grid"): "adds a constant"}).mark
    marks = {parameter.values[0].promise: parameter.marks for parameter in mark.args[1]}
    (xfail,) = marks["grid"]
    assert xfail.name == "xfail"
    assert xfail.kwargs == {"reason": "adds a constant", "raises": AssertionError, "strict": True}
    assert not marks["output"]


def test_reports_name_what_is_broken(capsys):
    outcomes = run_all([*trials(LSQ, "grid"), *trials(Shifted, "grid")], quiet=True)
    show(outcomes)
    printed = capsys.readouterr().out
    assert "4 of 8 promises kept" in printed
    counts = summary(outcomes)
    assert (counts["trials"], counts["broken"]) == (8, 4)
    assert counts["comparisons"] > 1000
    errors = {outcome["error"] for outcome in counts["outcomes"] if outcome["quantizer"] == "Shifted"}
    assert all("outputs lie between levels" in error for error in errors)


def test_the_command_prints_a_table_writes_json_and_succeeds(tmp_path, capsys):
    path = tmp_path / "report.json"
    only = ["--mode", "torch", "--only", "LSQ-activation-uniform-4bit", "--quiet"]
    assert main(["trainable_quantizers_torch", *only, "--json", str(path)]) == 0
    assert "16 of 16 promises kept, in 1 cases, by" in capsys.readouterr().out
    report = json.loads(path.read_text())
    assert (report["trials"], report["broken"]) == (16, 0)
    assert "mct-quantizers" in report["versions"]
    assert {outcome["promise"] for outcome in report["outcomes"]} >= {"train_is_deploy", "gradient_to_parameters"}


MISTAKES = [
    (["trainable_quantizers_jax"], "package must be an installed framework package, got 'trainable_quantizers_jax'"),
    (
        ["trainable_quantizers_torch", "--mode", "eager"],
        "--mode must be one of torch, torch in blocks, torch.compile, torch by numba, got",
    ),
    (["trainable_quantizers_torch", "--only", "5bit"], "--only must be part of a trial's name, got '5bit'"),
]


@pytest.mark.parametrize(("arguments", "text"), MISTAKES, ids=lambda part: str(part)[:40])
def test_mistakes_in_the_call_are_explained(arguments, text, capsys):
    assert main(arguments) == 2
    assert text in capsys.readouterr().err


def test_shipped_oracles_cannot_be_replaced_and_unknown_ones_are_named():
    with pytest.raises(QuantizerError, match="identifier must be your own"):
        register_oracle("LSQ", expect)
    trial = trials(LSQ, "output")[0]
    case = type(trial.case)("nobody's", trial.case.target, trial.case.method, 4)
    with pytest.raises(QuantizerError, match='got "nobody\'s"; register one with register_oracle'):
        expect(case, case.initial_values(), EAGER[0].read(EAGER[0].tensor([1.0])), 1.0)
