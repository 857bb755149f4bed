"""The three doors of the suite: the decorator for pytest, the iterator, and the command."""

import json
from dataclasses import replace

import pytest
import trainable_quantizers_torch as tq
from trainable_quantizers_core import QuantizerError
from trainable_quantizers_core.conformance import (
    all_cases,
    iterate_trials,
    load_adapters,
    parametrize_with_checks,
    register_oracle,
)
from trainable_quantizers_core.conformance.__main__ import main
from trainable_quantizers_core.conformance.oracle.registry import expect
from trainable_quantizers_core.conformance.report import run_all, show, summary
from trainable_quantizers_core.conformance.selection import WITHOUT_WIDTH

ADAPTERS = load_adapters("trainable_quantizers_torch")
EAGER = ADAPTERS[:1]
USUAL, EVERYTHING = (list(iterate_trials(ADAPTERS, everything=everything)) for everything in (False, True))
LSQ = tq.LSQSymmetricActivationTrainableQuantizer


class Shifted(LSQ):
    def __call__(self, inputs, training=True):
        return super().__call__(inputs, training) + 0.01


def trials(quantizer_class, promise, expected_failures=None):
    every = iterate_trials(EAGER, [quantizer_class], expected_failures)
    return [trial for trial in every if trial.promise == promise and trial.case.num_bits == 4]


def test_the_iterator_yields_every_promise_of_every_case():
    found = list(iterate_trials(EAGER, everything=True))
    cases = {trial.case for trial in found}
    soft = {case for case in cases if case.identifier is tq.TrainingMethod.ADAROUND}
    mixed = {case for case in cases if case.identifier is tq.TrainingMethod.DQA}
    hard = cases - soft - mixed
    assert (len(hard), len(soft), len(mixed)) == (189, 13, 12)
    of = {trial.promise: set() for trial in found}
    for trial in found:
        of[trial.promise].add(trial.case)
    expected = dict.fromkeys(of, hard) | dict.fromkeys(("config_round_trip", "disabled", "invalid_input"), cases)
    sums = {case for case in hard if case.power_of_two and not case.is_activation and case.axis in (None, 0)}
    sums = {case for case in sums if case.num_bits <= 8}
    expected |= {
        "bias": sums,
        "limit": {case for case in sums if not case.tabled},
        "range_order": {case for case in hard if case.uniform},
        "channel_axis": {case for case in hard if case.axis is not None},
        "ties": {case for case in hard if case.is_activation and case.power_of_two and not case.tabled},
        "soft_rounding": soft,
        "mixture": mixed,
        "log2_domain": {case for case in cases if case.log2},
        "oscillations": {case for case in hard if case.num_bits == 4 and not case.is_activation and not case.tabled},
    }
    assert of == expected and len(of) == 23
    assert len({str(trial) for trial in found}) == len(found) == sum(map(len, expected.values())) == 2988


PAIRS = {  # of what a trial is, and what the trials that are run each time still show of it
    "check and mode": lambda trial: (trial.promise, trial.adapter.name),
    "check and quantizer, eager": lambda trial: (trial.promise, trial.adapter.compiled or trial.quantizer_class),
    "check and rule for gradients": lambda trial: (trial.promise, trial.case.log2, trial.case.ewgs),
    "check and sign": lambda trial: (trial.promise, trial.case.signed),
    "check and width, of those that see widths": lambda trial: (
        trial.promise,
        4 if trial.check in WITHOUT_WIDTH else trial.case.num_bits,
    ),
    "check and axis, eager": lambda trial: (trial.promise, None if trial.adapter.compiled else trial.case.axis),
    "method and mode": lambda trial: (trial.case.method.name.removeprefix("LUT_"), trial.adapter.name),
    "training method and mode": lambda trial: (trial.case.identifier, trial.adapter.name),
    "width and mode, eager": lambda trial: (trial.adapter.compiled or trial.case.num_bits, trial.adapter.name),
}


@pytest.mark.parametrize("pair", PAIRS)
def test_what_is_left_out_of_each_run_shows_no_pair_that_the_others_do_not(pair):
    usual, everything = ({PAIRS[pair](trial) for trial in trials} for trials in (USUAL, EVERYTHING))
    assert usual == everything
    assert len(USUAL) < len(EVERYTHING) / 2


def test_the_decorator_makes_tests_with_a_mark_of_the_rest():
    mark = parametrize_with_checks("trainable_quantizers_torch", marks_of_the_rest=pytest.mark.long).mark
    usual = [trial for test in mark.args[1] if not test.marks for trial in test.values[0].trials]
    rest = [trial for test in mark.args[1] if test.marks for trial in test.values[0].trials]
    assert {str(trial) for trial in usual} == {str(trial) for trial in USUAL}
    assert {str(trial) for trial in usual + rest} == {str(trial) for trial in EVERYTHING}
    assert len(usual) + len(rest) == len(EVERYTHING)


def test_all_of_ones_own_cases_are_checked():
    cases = [case for case in all_cases() if case.num_bits == 16 and case.axis == 1]
    ours = iterate_trials(EAGER, cases=lambda: iter(cases))
    assert {trial.case for trial in ours if trial.promise == "disabled"} == set(cases)


def test_a_check_that_compares_nothing_keeps_no_promise():
    with pytest.raises(AssertionError, match="compares nothing"):
        replace(trials(LSQ, "grid")[0], check=lambda adapter, quantizer_class, case: None).run()


def test_an_expected_failure_passes_and_a_stale_one_fails():
    for trial in trials(Shifted, "grid", {(Shifted, "grid"): "adds a constant"}):
        trial.run()
    for trial in trials(LSQ, "grid", {(LSQ, "grid"): "adds a constant"}):
        with pytest.raises(AssertionError, match=r"expected to fail \(adds a constant\): remove the expectation"):
            trial.run()


def parameters(expected_failures=None):
    """By their names, the tests that the decorator makes of the eager cases of 4 bits."""
    mark = parametrize_with_checks("trainable_quantizers_torch", [Shifted], expected_failures).mark
    return {each.id: each for each in mark.args[1] if each.id.startswith("torch-LSQ") and "4bit" in each.id}


def test_the_decorator_makes_one_test_of_each_case_that_names_every_broken_promise():
    tests = parameters()
    assert len(tests) == len({test.values[0].trials[0].case for test in tests.values()}) == 5
    name = "torch-LSQ-activation-symmetric-signed-4bit"
    (test,) = tests[name].values
    assert len(test.trials) == 14
    with pytest.raises(AssertionError) as caught:
        test.run()
    first, *lines = str(caught.value).splitlines()
    promises = [line.strip().partition(": AssertionError: ")[0] for line in lines]
    assert first == f"{name}: {len(lines)} of 14 promises are broken:"
    assert {"output", "grid", "train_is_deploy"} <= set(promises) < {each.promise for each in test.trials}
    assert "outputs lie between levels" in lines[promises.index("grid")]
    assert str(caught.value.__cause__) in lines[0]


def test_the_decorator_marks_expected_failures_strictly_with_their_reason():
    tests = parameters({(Shifted, "grid"): "adds a constant"})
    assert len(tests) == 2 * 5
    for name, test in tests.items():
        if name.endswith("-grid"):
            (xfail,) = test.marks
            assert xfail.name == "xfail"
            assert xfail.kwargs == {"reason": "adds a constant", "raises": AssertionError, "strict": True}
            assert (test.values[0].promise, test.values[0].expected_failure) == ("grid", "")
        else:
            assert not test.marks
            assert "grid" not in {trial.promise for trial in test.values[0].trials}


def test_reports_name_what_is_broken(capsys):
    outcomes = run_all([*trials(LSQ, "grid"), *trials(Shifted, "grid")], quiet=True)
    show(outcomes)
    printed = capsys.readouterr().out
    assert "5 of 10 promises kept" in printed
    counts = summary(outcomes)
    assert (counts["trials"], counts["broken"]) == (10, 5)
    assert counts["comparisons"] > 1000
    errors = {outcome["error"] for outcome in counts["outcomes"] if outcome["quantizer"] == "Shifted"}
    assert all("outputs lie between levels" in error for error in errors)


def test_the_command_prints_a_table_writes_json_and_succeeds(tmp_path, capsys):
    path = tmp_path / "report.json"
    only = ["--mode", "torch", "--only", "LSQ-activation-uniform-4bit", "--quiet"]
    assert main(["trainable_quantizers_torch", *only, "--json", str(path)]) == 0
    assert "15 of 15 promises kept, in 1 cases, by" in capsys.readouterr().out
    report = json.loads(path.read_text())
    assert (report["trials"], report["broken"]) == (15, 0)
    assert "mct-quantizers" in report["versions"]
    assert {outcome["promise"] for outcome in report["outcomes"]} >= {"train_is_deploy", "gradient_to_parameters"}


MISTAKES = [
    (["trainable_quantizers_jax"], "package must be an installed framework package, got 'trainable_quantizers_jax'"),
    (
        ["trainable_quantizers_torch", "--mode", "eager"],
        f"--mode must be one of {', '.join(adapter.name for adapter in ADAPTERS)}, got 'eager'",
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
