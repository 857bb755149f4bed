"""The conformance suite, which tests that a quantizer keeps the contract: the shipped ones and your own.

Needs the extra ``conformance`` (pytest and rich) and the package of the framework it runs.
"""

from trainable_quantizers_core.conformance.adapter import FrameworkAdapter, Run
from trainable_quantizers_core.conformance.cases import Case, all_cases
from trainable_quantizers_core.conformance.checks import COMPILED_CHECKS, EAGER_CHECKS
from trainable_quantizers_core.conformance.oracle.expectation import Expectation
from trainable_quantizers_core.conformance.oracle.range_quantizer import expect_range
from trainable_quantizers_core.conformance.oracle.registry import expect, register_oracle
from trainable_quantizers_core.conformance.subject import Subject
from trainable_quantizers_core.conformance.suite import Trial, iterate_trials, load_adapters, parametrize_with_checks

__all__ = [
    "COMPILED_CHECKS",
    "EAGER_CHECKS",
    "Case",
    "Expectation",
    "FrameworkAdapter",
    "Run",
    "Subject",
    "Trial",
    "all_cases",
    "expect",
    "expect_range",
    "iterate_trials",
    "load_adapters",
    "parametrize_with_checks",
    "register_oracle",
]
