"""Adds a class to a module's class, so that the module stays an instance of its own."""

from __future__ import annotations

import copyreg
import functools
from typing import Any

from torch import nn


@functools.cache
def mixed_class(*classes: type) -> type:
    """A class derived from ``classes``, named like the first that is a module; cached for the same classes."""
    named = next((cls for cls in classes if issubclass(cls, nn.Module)), classes[-1])
    facts: dict[str, Any] = {
        "__module__": named.__module__,
        "__qualname__": named.__qualname__,
        "__doc__": named.__doc__,
    }
    facts |= {"_mixed_from": classes, "__reduce_ex__": _reduce}
    return type(named.__name__, classes, {**_life_of(named, classes), **facts, **_forward_of(classes)})


def _life_of(named: type, classes: tuple[type, ...]) -> dict[str, Any]:
    """Methods that a wrapper runs as a module, not as its layer would: move, copy, load, set attributes."""
    if sum(issubclass(cls, nn.Module) for cls in classes) < 2:
        return {}
    return {name: getattr(named, name) for name, value in vars(nn.Module).items() if callable(value)}


def _forward_of(classes: tuple[type, ...]) -> dict[str, Any]:
    """The forward of a mixin, with the arguments of the module's own: frameworks ask for their names."""
    first, *rest = classes
    if issubclass(first, nn.Module) or "forward" not in vars(first):
        return {}
    own = next(cls.forward for cls in rest if hasattr(cls, "forward"))  # type: ignore[attr-defined]

    @functools.wraps(own)
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        return first.forward(self, *args, **kwargs)  # type: ignore[attr-defined]

    return {"forward": forward}


def _reduce(self: Any, protocol: Any) -> Any:
    """Pickle as the module does, with a class that is mixed again from importable ones."""
    reduced = super(type(self), self).__reduce_ex__(max(int(protocol), 2))
    if reduced[0] is not copyreg.__newobj__:  # type: ignore[attr-defined]
        return reduced
    return _new, (type(self)._mixed_from, *reduced[1][1:]), *reduced[2:]


def _new(classes: tuple[type, ...], *arguments: Any) -> Any:
    cls = mixed_class(*classes)
    return cls.__new__(cls, *arguments)


def classes_of(module: nn.Module) -> tuple[type, ...]:
    """The classes that a module's class was mixed from, or its class."""
    return getattr(type(module), "_mixed_from", (type(module),))


def mix(module: nn.Module, *classes: type, first: bool = False) -> None:
    """Give a module further classes, before those it has if ``first``, else after."""
    own = classes_of(module)
    missing = tuple(cls for cls in classes if cls not in own)
    if missing:
        module.__class__ = mixed_class(*missing, *own) if first else mixed_class(*own, *missing)


def unmix(module: nn.Module, cls: type) -> None:
    """Remove a class that was mixed in."""
    left = tuple(each for each in classes_of(module) if each is not cls)
    module.__class__ = left[0] if len(left) == 1 else mixed_class(*left)
