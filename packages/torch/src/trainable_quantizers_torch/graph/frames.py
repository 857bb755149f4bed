"""Derives from recorded runs which function calls each module call quantizes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from typing import Any

from trainable_quantizers_torch.graph.recording import Invocation, MethodCall, Node, Recording
from trainable_quantizers_torch.graph.runtime import HIDDEN, Calls, Frame, Step


def scopes(recording: Recording, quantizing: Collection[str]) -> frozenset[str]:
    """Paths of the modules that need frames.

    Args:
        recording: A run.
        quantizing: The modules whose forwards quantize. Those that tell their calls apart need frames too.
    """
    scoped = set(quantizing)
    scoped |= {each.path for each in recording.invocations if each.whole is not None} if scoped else set()
    waiting = list(scoped)
    calls: dict[str, list[Invocation]] = {}
    for invocation in recording.invocations:
        calls.setdefault(invocation.path, []).append(invocation)
    while waiting:
        path = waiting.pop()
        above = [invocation.parent for invocation in calls[path]]
        while len(calls[path]) > 1 and all(parent is not None for parent in above):
            paths = {parent.path for parent in above if parent is not None}
            for each in paths - scoped:
                scoped.add(each)
                waiting.append(each)
            if len(set(map(id, above))) == 1:
                break
            above = [parent.parent if parent is not None else None for parent in above]
    return frozenset(scoped)


class ScopedRun:
    """A run, restricted to the calls of some modules.

    Args:
        recording: The run.
        paths: Those modules.
    """

    def __init__(self, recording: Recording, paths: frozenset[str]) -> None:
        self.recording, self.paths = recording, paths
        self.places: dict[Invocation, tuple[Any, ...]] = {}
        """A key of each call of these modules, the same in another run."""
        counts: Counter[tuple[Any, ...]] = Counter()
        for invocation in recording.invocations:
            if invocation.path in paths:
                parent = self.scope(invocation.parent)
                place = (*(self.places[parent] if parent is not None else ()), invocation.path)
                self.places[invocation] = (*place, counts[place])
                counts[place] += 1

    def scope(self, invocation: Invocation | None) -> Invocation | None:
        """The call itself if it is one of these modules, else the nearest around it."""
        while invocation is not None and invocation.path not in self.paths:
            invocation = invocation.parent
        return invocation

    def made(self) -> dict[tuple[tuple[Any, ...], Callable[..., Any]], list[Node | None]]:
        """The results of each function's calls, by place and function."""
        found: dict[tuple[tuple[Any, ...], Callable[..., Any]], list[Node | None]] = {}
        for function, invocation, node in self.recording.calls:
            scope = self.scope(invocation)
            if scope is not None:
                found.setdefault((self.places[scope], function), []).append(node)
        return found

    def counts_before(self, method: MethodCall, frame: Frame, calls: Mapping[str, Calls]) -> Mapping[Any, int]:
        """How often the forward had called each function that it quantizes, and each of these modules."""
        before = self.recording.calls[: method.calls], self.recording.invocations[: method.invocations]
        functions = ((function, invocation) for function, invocation, _ in before[0] if function in frame.steps)
        modules = (each for each in before[1] if each.path in self.paths)
        return Counter(
            [function for function, invocation in functions if self.scope(invocation) is method.invocation]
            + [calls[each.path] for each in modules if self.scope(each.parent) is method.invocation]
        )


def frames_of(
    evaluation: ScopedRun,
    training: ScopedRun | None,
    steps: Mapping[Node, Step],
    calls: Mapping[str, Calls],
    norms: Collection[str],
) -> dict[Invocation, Frame]:
    """The frame of each call of the modules.

    Args:
        evaluation: The run that the nodes come from.
        training: A run in training, if there was one: it may call other functions in between.
        steps: The quantization where nodes are computed.
        calls: The calls kept in the modules, by path.
        norms: Paths of batch norms whose calls are steps as a whole.
    """
    frames: dict[Invocation, Frame] = {each: Frame() for each in evaluation.places}
    for function, invocation, node in evaluation.recording.calls:
        scope = evaluation.scope(invocation)
        alone = invocation.path in norms  # SyncBatchNorm computes by no function in training
        if node is not None and node in steps and (alone or (function in HIDDEN and node.layer)):
            frames[invocation].whole = steps[node]
        elif scope is not None:
            frames[scope].steps.setdefault(function, []).append(None if node is None else steps.get(node))
    for invocation, frame in frames.items():
        frame.steps = {function: each for function, each in frame.steps.items() if any(each)}
        if invocation.whole is not None:
            frame.whole = steps.get(invocation.whole)
        parent = evaluation.scope(invocation.parent)
        if parent is not None:
            frames[parent].inside.setdefault(calls[invocation.path], []).append(frame)
    if training is not None:
        _add_training(frames, evaluation, training, steps)
    _add_methods(frames, evaluation, training, steps, calls)
    return frames


def _add_training(
    frames: Mapping[Invocation, Frame], evaluation: ScopedRun, training: ScopedRun, steps: Mapping[Node, Step]
) -> None:
    """If training calls a function more often, find the calls that correspond to those of evaluation."""
    ours, theirs = evaluation.made(), training.made()
    for invocation, frame in frames.items():
        changed = {}
        for function in frame.steps:
            wanted = ours[evaluation.places[invocation], function]
            found = theirs.get((evaluation.places[invocation], function), [])
            if found and len(found) != len(wanted):
                changed[function] = _aligned(wanted, found, steps)
        if changed:
            frame.training = {**frame.steps, **changed}


def _aligned(wanted: list[Node | None], found: list[Node | None], steps: Mapping[Node, Step]) -> list[Step | None]:
    """Steps for the calls in training, where those with random numbers exist only there."""
    waiting = [None if node is None else steps.get(node) for node in wanted]
    aligned: list[Step | None] = []
    for node in found:
        noise = node is not None and any(each.random for each in node.arguments.values())
        aligned.append(None if noise or not waiting else waiting.pop(0))
    return aligned


def _add_methods(
    frames: Mapping[Invocation, Frame],
    evaluation: ScopedRun,
    training: ScopedRun | None,
    steps: Mapping[Node, Step],
    calls: Mapping[str, Calls],
) -> None:
    """Record how much had been called when a forward called a method that quantizes."""
    theirs: dict[Any, MethodCall] = {}
    if training is not None:
        methods = training.recording.methods.items()
        theirs = {(training.places.get(invocation), name): each for (invocation, name), each in methods}
    for (invocation, name), method in evaluation.recording.methods.items():
        frame = frames.get(invocation)
        if frame is None or not any(node in steps for node in method.nodes):
            continue
        frame.methods[name] = evaluation.counts_before(method, frame, calls)
        same = theirs.get((evaluation.places[invocation], name))
        if training is not None and same is not None:
            frame.training_methods[name] = training.counts_before(same, frame, calls)
