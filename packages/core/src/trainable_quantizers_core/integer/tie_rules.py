"""Rules for rounding ties, chosen by the names of quantizers."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase

from trainable_quantizers_core.enums import RoundingRule
from trainable_quantizers_core.errors import invalid, member, nearest

Rounding = RoundingRule | str | Mapping[str, RoundingRule | str]
"""One rule, or rules by patterns of names of quantizers, of which the first that fits counts."""


class TieRules:
    """Rules for ties by the names of quantizers.

    Args:
        owner: Of the argument, for errors.
        rounding: One rule, or rules by patterns of names with ``*``, ``?`` and ``[...]``.

    Raises:
        QuantizerError: no such rule.

    Examples:
        >>> rules = TieRules("to_integer", {"add*": "half_up"})
        >>> [rules.of(name, RoundingRule.HALF_EVEN).value for name in ("add_1", "conv")]
        ['half_up', 'half_even']
    """

    def __init__(self, owner: str, rounding: Rounding) -> None:
        given = rounding if isinstance(rounding, Mapping) else {"*": rounding}
        self._owner = owner
        self._rules = {pattern: member(owner, "rounding", RoundingRule, rule) for pattern, rule in given.items()}
        self._names: set[str] = set()

    def of(self, name: str, default: RoundingRule) -> RoundingRule:
        """The rule of a quantizer; ``default`` if no pattern matches."""
        self._names.add(name)
        return next((rule for pattern, rule in self._rules.items() if fnmatchcase(name, pattern)), default)

    def check_used(self) -> None:
        """Check that each pattern matches a name that was asked for.

        Raises:
            QuantizerError: a pattern matches none.
        """
        for pattern in self._rules:
            if not any(fnmatchcase(name, pattern) for name in self._names):
                rule = "patterns of names of quantizers"
                raise invalid(self._owner, "rounding", rule, pattern, nearest(pattern, sorted(self._names)))
