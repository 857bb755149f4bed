"""The suite: which checks run on which cases, under pytest, as an iterator or as a command."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any

from trainable_quantizers_core.conformance.adapter import FrameworkAdapter
from trainable_quantizers_core.conformance.cases import Case, all_cases
from trainable_quantizers_core.conformance.checks import COMPILED_CHECKS, EAGER_CHECKS, applies
from trainable_quantizers_core.conformance.comparison import compared
from trainable_quantizers_core.conformance.selection import worth_checking, worth_compiling
from trainable_quantizers_core.conformance.subject import Check
from trainable_quantizers_core.errors import invalid
from trainable_quantizers_core.quantizer.base_quantizer import BaseTrainableQuantizer
from trainable_quantizers_core.quantizer.registry import get_trainable_quantizer_class


@dataclass(frozen=True)
class Trial:
    """One check of one quantizer on one case.

    Args:
        adapter: Runs the quantizers.
        quantizer_class: The class.
        case: The configuration.
        check: The promise.
        expected_failure: Why it is known to fail; empty if it must pass.
    """

    adapter: FrameworkAdapter
    quantizer_class: type[BaseTrainableQuantizer]
    case: Case
    check: Check
    expected_failure: str = field(default="")

    @property
    def worth_its_time(self) -> bool:
        """Whether it adds information to the other trials."""
        return worth_checking(self.adapter, self.check, self.case)

    @property
    def promise(self) -> str:
        """The name of the check, without its prefix."""
        return self.check.__name__.removeprefix("check_")

    def __str__(self) -> str:
        return f"{self.adapter.name}-{self.case}-{self.promise}".replace(" ", "-")

    def run(self) -> None:
        """Do it.

        Raises:
            AssertionError: the promise is broken; or it is kept although a failure was expected; or the check
                found nothing to compare, which proves nothing.
        """
        before = compared["elements"]
        try:
            with self.adapter.active():
                self.check(self.adapter, self.quantizer_class, self.case)
        except AssertionError:
            if not self.expected_failure:
                raise
            return
        if self.expected_failure:
            raise AssertionError(f"passes, but was expected to fail ({self.expected_failure}): remove the expectation")
        if compared["elements"] == before:
            raise AssertionError("compares nothing: leave the check out for this case")


@dataclass(frozen=True)
class CaseTrials:
    """Every check of one quantizer on one case, run in one way: one test.

    Args:
        trials: The checks.
    """

    trials: tuple[Trial, ...]

    def __str__(self) -> str:
        return str(self.trials[0]).removesuffix(f"-{self.trials[0].promise}")

    def run(self) -> None:
        """Run them all, even after one fails.

        Raises:
            AssertionError: promises are broken; it names each, with its error, and carries the first as its cause.
        """
        broken: dict[str, Exception] = {}
        for trial in self.trials:
            try:
                trial.run()
            except Exception as error:  # a crash breaks the promise, too
                broken[trial.promise] = error
        if broken:
            errors = "".join(f"\n  {name}: {type(error).__name__}: {error}" for name, error in broken.items())
            text = f"{self}: {len(broken)} of {len(self.trials)} promises are broken:{errors}"
            raise AssertionError(text) from next(iter(broken.values()))


def load_adapters(package: str) -> list[FrameworkAdapter]:
    """The adapters of a framework package, by its import name.

    Raises:
        QuantizerError: the package is not installed or has no adapters.
    """
    try:
        importlib.import_module(package)
        return list(importlib.import_module(f"{package}.conformance").adapters())
    except ModuleNotFoundError as error:
        if error.name is None or not f"{package}.conformance".startswith(error.name):
            raise
        advice = "install it, or name trainable_quantizers_torch or trainable_quantizers_keras"
        raise invalid("conformance", "package", "an installed framework package", package, advice) from error


def iterate_trials(
    adapters: list[FrameworkAdapter],
    quantizer_classes: list[type[BaseTrainableQuantizer]] | None = None,
    expected_failures: Mapping[tuple[type, str], str] | None = None,
    cases: Callable[[], Iterator[Case]] | None = None,
    everything: bool = False,
) -> Iterator[Trial]:
    """The trials: for each adapter and case, each check that applies and is worth its time.

    Args:
        adapters: Ways of running quantizers.
        quantizer_classes: The classes to check; those that the cases look up if None.
        expected_failures: Reasons by (class, promise), such as ``{(MyQuantizer, "idempotent"): "adds noise"}``.
        cases: The cases; None takes those of each class's marks.
        everything: Include redundant trials: every width and axis of every promise, in each way of running.
            Your own cases are all checked.
    """
    reasons = dict(expected_failures or {})
    everything = everything or cases is not None
    for adapter in adapters:
        for case, quantizer_class in _subjects(adapter, quantizer_classes, cases):
            if adapter.compiled and not worth_compiling(adapter, case):
                continue
            for check in COMPILED_CHECKS if adapter.compiled else EAGER_CHECKS:
                if not applies(check, quantizer_class, case):
                    continue
                promise = check.__name__.removeprefix("check_")
                trial = Trial(adapter, quantizer_class, case, check, reasons.get((quantizer_class, promise), ""))
                if everything or trial.worth_its_time:
                    yield trial


def _subjects(
    adapter: FrameworkAdapter,
    quantizer_classes: list[type[BaseTrainableQuantizer]] | None,
    cases: Callable[[], Iterator[Case]] | None,
) -> Iterator[tuple[Case, type[BaseTrainableQuantizer]]]:
    if quantizer_classes is None:
        for case in (cases or all_cases)():
            yield case, get_trainable_quantizer_class(case.target, case.identifier, case.method, adapter.base_class)
        return
    for quantizer_class in quantizer_classes:
        marks: Any = quantizer_class
        for case in cases() if cases else all_cases((marks.identifier,)):
            if case.target is marks.quantization_target and case.method in marks.quantization_method:
                yield case, quantizer_class


def parametrize_with_checks(
    package: str,
    quantizer_classes: list[type[BaseTrainableQuantizer]] | None = None,
    expected_failures: Mapping[tuple[type, str], str] | None = None,
    cases: Callable[[], Iterator[Case]] | None = None,
    marks_of_the_rest: Any = None,
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A decorator that turns ``def test(trial): trial.run()`` into one pytest test for each case.

    A test runs all checks of its case and names every promise that is broken. A check that is expected to fail is
    a test of its own.

    Args:
        package: ``trainable_quantizers_torch`` or ``trainable_quantizers_keras``.
        quantizer_classes: Your classes; the shipped ones if None.
        expected_failures: Reasons by (class, promise); a stale one fails.
        cases: Your own cases.
        marks_of_the_rest: A mark such as ``pytest.mark.slow``: the trials that ``iterate_trials`` yields with
            ``everything`` alone are tests with this mark. Without it they are left out.
    """
    import pytest

    parameters = []
    trials = iterate_trials(
        load_adapters(package), quantizer_classes, expected_failures, cases, marks_of_the_rest is not None
    )
    for _, of_case in groupby(trials, lambda trial: (trial.adapter, trial.quantizer_class, trial.case)):
        together: dict[bool, list[Trial]] = {True: [], False: []}
        for trial in of_case:
            usual = cases is not None or trial.worth_its_time
            if not trial.expected_failure:
                together[usual].append(trial)
                continue
            # strict: an expected failure that does not happen fails
            xfail = pytest.mark.xfail(reason=trial.expected_failure, raises=AssertionError, strict=True)
            marks = [xfail] if usual else [xfail, marks_of_the_rest]
            parameters.append(pytest.param(replace(trial, expected_failure=""), marks=marks, id=str(trial)))
        for usual, of_one_test in together.items():
            if of_one_test:
                test = CaseTrials(tuple(of_one_test))
                marks, name = ([], str(test)) if usual else ([marks_of_the_rest], f"{test}-rest")
                parameters.append(pytest.param(test, marks=marks, id=name))
    return pytest.mark.parametrize("trial", parameters)
