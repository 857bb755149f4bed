"""Quantizers put where the core says that they stand."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from torch import nn
from trainable_quantizers_core.graph.operation import SOURCES
from trainable_quantizers_core.graph.settle import Settled

from trainable_quantizers_torch.graph.build import RecordedGraph
from trainable_quantizers_torch.graph.fold import Fold, close, replace_everywhere
from trainable_quantizers_torch.graph.kinds import is_container, is_standard
from trainable_quantizers_torch.graph.record import Invocation, MethodCall, Node, Recording
from trainable_quantizers_torch.graph.runtime import (
    HIDDEN,
    QUANTIZERS,
    Calls,
    Frame,
    Method,
    Place,
    QuantizedCalls,
    Quantizers,
    Step,
)
from trainable_quantizers_torch.layers.holder import PytorchTrainableActivationQuantizationHolder, TrainableWeightHolder
from trainable_quantizers_torch.layers.mixed import mix, unmix
from trainable_quantizers_torch.layers.norm import FoldedNorm
from trainable_quantizers_torch.layers.wrapper import PytorchTrainableQuantizationWrapper

_COMPUTES = ("conv", "depthwise_conv", "conv_transpose", "linear", "matmul", "recurrent", "add", "mul", "concat")
_READS = (*_COMPUTES, "activation", "norm", "pool", "function")


class Placed:
    """A recorded model, ready to take quantizers.

    Args:
        model: Is changed in place.
        recorded: Its graph.
        evaluation: The run that the graph was made of.
        training: A run in training, if there was one: it may call other functions in between.
        folds: Norms that are to fold at conversion, by path.
    """

    def __init__(
        self,
        model: nn.Module,
        recorded: RecordedGraph,
        evaluation: Recording,
        training: Recording | None,
        folds: Mapping[str, Fold] = MappingProxyType({}),
    ) -> None:
        self.model, self.recorded = model, recorded
        self.evaluation, self.training, self.folds = evaluation, training, folds
        self.modules = dict(model.named_modules())
        self.where = {node: invocation for _, invocation, node in evaluation.calls if node is not None}
        self.where |= {each.whole: each for each in evaluation.invocations if each.whole is not None}
        self.holders: dict[int, nn.Module] = {}
        self.weight_holders: dict[int, dict[Any, nn.Module]] = {}

    def watch(self, outputs: Mapping[int, nn.Module]) -> None:
        """Send the results of operations through modules, before their quantizers if they have any."""
        both = {at: nn.Sequential(each, self.holders[at]) for at, each in outputs.items() if at in self.holders}
        self._attach({**self.holders, **outputs, **both})

    def leave(self) -> None:
        """Take away what ``watch`` put in."""
        self._attach(self.holders)

    def apply(self, settled: Sequence[Settled]) -> None:
        """Put quantizers where they stand: weights of layers into wrappers, all others into holders."""
        self._wrap(settled)
        made = {at: PytorchTrainableActivationQuantizationHolder(each.output) for at, each in _with_output(settled)}
        for at, holder in made.items():
            self._hold(at, holder, "output")
        self.holders = {**made}
        self.weight_holders = self._hold_weights(settled)
        self._attach(self.holders)

    def _wrap(self, settled: Sequence[Settled]) -> None:
        found: dict[str, dict[str, Any]] = {}
        grids: dict[str, Any] = {}
        norms: dict[str, FoldedNorm] = {}
        for node, each in zip(self.recorded.nodes, settled, strict=True):
            direct = [weight.name for weight, _, _ in node.weights.values() if node.layer and weight.shared]
            quantizers = {name: each.weights[name] for name in direct if name in each.weights}
            found.setdefault(node.layer, {}).update(quantizers)
            if each.accumulator is not None:
                grids[node.layer] = each.accumulator
        for fold in self.folds.values():
            if found.get(fold.path):
                fold.open()
                norms[fold.path] = fold.norm
            else:
                close(fold.norm)
        self.modules |= wrap(self.model, found, grids, norms)

    def _hold_weights(self, settled: Sequence[Settled]) -> dict[int, dict[Any, nn.Module]]:
        """Holders of weights that functions read, by position and place among the arguments."""
        made: dict[int, nn.Module] = {}
        found: dict[int, dict[Any, nn.Module]] = {}
        for at, (node, each) in enumerate(zip(self.recorded.nodes, settled, strict=True)):
            direct = {place for place, (weight, _, _) in node.weights.items() if node.layer and weight.shared}
            for place, (weight, tensor, _) in node.weights.items():
                quantizer = each.weights.get(weight.name)
                if quantizer is None or place in direct:
                    continue
                if id(quantizer) not in made:
                    made[id(quantizer)] = TrainableWeightHolder(quantizer, tensor.shape)
                    self._hold(at, made[id(quantizer)], weight.name)
                found.setdefault(at, {})[place] = made[id(quantizer)]
        return found

    def _hold(self, at: int, holder: nn.Module, attribute: str) -> None:
        """Register a holder in the module whose forward it serves, or in the nearest that goes through nothing."""
        name, node = self.recorded.graph[at].name, self.recorded.nodes[at]
        invocation = self.where.get(node) or self._first_reader(at)
        while is_container(self.modules[invocation.path]) and invocation.parent is not None:
            invocation = invocation.parent
        module = self.modules[invocation.path]
        if QUANTIZERS not in module._modules:
            module.add_module(QUANTIZERS, Quantizers().train(module.training))
        quantizers: Any = module._modules[QUANTIZERS]
        local = name.removeprefix(invocation.path).lstrip("._") if invocation.path else name
        local = f"output_{local}" if local.isdigit() else local.replace(".", "_")  # of a layer called once more
        key = "_".join(filter(None, (local, "" if local and attribute == "output" else attribute)))
        while key in quantizers or hasattr(nn.ModuleDict, key):
            key += "_"
        device = next((tensor.device for tensor in self.model.parameters()), None)
        quantizers[key] = holder.to(device).train(module.training)
        quantizers.places[key] = Place(name, attribute, at)

    def _first_reader(self, at: int) -> Invocation:
        """The call that an input or constant is first computed with in."""
        for position, node in enumerate(self.recorded.nodes):
            reads = node.kind in _READS and node in self.where
            if reads and any(at in self.recorded.sources(position, path) for path in node.read):
                return self.where[node]
        return self.evaluation.invocations[0]

    def _steps(self, outputs: Mapping[int, nn.Module]) -> dict[Node, Step]:
        steps: dict[Node, Step] = {}
        places = {node.layer: at for at, node in enumerate(self.recorded.nodes) if node.layer}
        norms = {fold.path: fold.norm for fold in self.folds.values()}
        for _, invocation, node in self.evaluation.calls:
            gone = isinstance(self.modules[invocation.path], nn.Identity)
            if node is not None and node.kind == "skipped" and not gone:
                fold = self.folds.get(invocation.path)
                output = outputs.get(places[fold.path]) if fold is not None else None
                steps[node] = Step(output=output, skipped=True, norm=fold.norm if fold is not None else None)
        for at, node in enumerate(self.recorded.nodes):
            operation = self.recorded.graph[at]
            if operation.kind in SOURCES:
                continue
            step = Step(dict(self.weight_holders.get(at, {})), outputs.get(at), node.items, in_place=node.in_place)
            step.norm = norms.get(node.layer)
            if operation.kind in _READS:
                for path in node.read:
                    sources = [source for source in self.recorded.sources(at, path) if source in outputs]
                    if sources:
                        step.inputs[path] = outputs[sources[0]]
            if step.inputs or step.output is not None:
                steps[node] = step
        return steps

    def _attach(self, outputs: Mapping[int, nn.Module]) -> None:
        for module in self.model.modules():
            if isinstance(module, QuantizedCalls):
                unmix(module, QuantizedCalls)
                for name in [name for name, each in vars(module).items() if isinstance(each, (Calls, Method))]:
                    delattr(module, name)
        steps = self._steps(outputs)
        scoped = self._scoped(steps)
        calls = {path: Calls(path) for path in scoped}
        layers = {path for path in self.folds if is_standard(self.modules[path])}
        frames = _frames(self.evaluation, steps, scoped, calls, layers)
        if self.training is not None:
            _add_training(frames, self.evaluation, self.training, steps, scoped)
        _add_methods(frames, self.evaluation, self.training, steps, scoped, calls)
        parents: dict[str, Invocation | None] = {}
        for invocation, frame in frames.items():
            parent = parents.setdefault(invocation.path, _scope(invocation.parent, scoped))
            if parent is _scope(invocation.parent, scoped):
                calls[invocation.path].frames.append(frame)
        for path, of_module in calls.items():
            module = self.modules[path]
            mix(module, QuantizedCalls, first=True)
            module.quantized_calls = of_module
            if not isinstance(module, PytorchTrainableQuantizationWrapper) and of_module.frames:
                vars(module).update({name: Method(module, name) for name in of_module.frames[0].methods})

    def _scoped(self, steps: Mapping[Node, Step]) -> frozenset[str]:
        """Paths of the modules that quantize: those whose forwards do, and those that tell their calls apart."""
        scoped = {self.where[node].path for node in steps if node in self.where}
        scoped |= {each.path for each in self.evaluation.invocations if each.whole is not None} if scoped else set()
        waiting = list(scoped)
        calls: dict[str, list[Invocation]] = {}
        for invocation in self.evaluation.invocations:
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


def wrap(
    model: nn.Module,
    quantizers: Mapping[str, dict[str, Any]],
    accumulators: Mapping[str, Any] = MappingProxyType({}),
    norms: Mapping[str, FoldedNorm] = MappingProxyType({}),
) -> dict[str, nn.Module]:
    """Put layers into wrappers, in place, with the quantizers of their weights by path and name; wrappers by path."""
    layers = {path: model.get_submodule(path) for path, of_layer in quantizers.items() if of_layer}
    wrappers: dict[str, nn.Module] = {}
    for path, layer in layers.items():
        wrapper = PytorchTrainableQuantizationWrapper(
            layer, quantizers[path], accumulator=accumulators.get(path), folded_norm=norms.get(path)
        )
        wrappers[path] = wrapper.train(layer.training)
        replace_everywhere(model, layer, wrappers[path])
    return wrappers


def _with_output(settled: Sequence[Settled]) -> Iterable[tuple[int, Settled]]:
    return ((at, each) for at, each in enumerate(settled) if each.output is not None)


def _scope(invocation: Invocation | None, scoped: frozenset[str]) -> Invocation | None:
    """The nearest call of a module that quantizes."""
    while invocation is not None and invocation.path not in scoped:
        invocation = invocation.parent
    return invocation


def _frames(
    recording: Recording,
    steps: Mapping[Node, Step],
    scoped: frozenset[str],
    calls: Mapping[str, Calls],
    norms: Collection[str],
) -> dict[Invocation, Frame]:
    frames: dict[Invocation, Frame] = {each: Frame() for each in recording.invocations if each.path in scoped}
    for function, invocation, node in recording.calls:
        scope = _scope(invocation, scoped)
        alone = invocation.path in norms  # SyncBatchNorm computes by no function in training
        if node is not None and node in steps and (alone or (function in HIDDEN and node.layer)):
            frames[invocation].whole = steps[node]
        elif scope is not None:
            frames[scope].steps.setdefault(function, []).append(None if node is None else steps.get(node))
    for invocation, frame in frames.items():
        frame.steps = {function: each for function, each in frame.steps.items() if any(each)}
        if invocation.whole is not None:
            frame.whole = steps.get(invocation.whole)
        parent = _scope(invocation.parent, scoped)
        if parent is not None:
            frames[parent].inside.setdefault(calls[invocation.path], []).append(frame)
    return frames


def _add_training(
    frames: Mapping[Invocation, Frame],
    evaluation: Recording,
    training: Recording,
    steps: Mapping[Node, Step],
    scoped: frozenset[str],
) -> None:
    """Where training calls a function more often, tell which calls are those of evaluation."""
    theirs = _by_place(training, scoped)
    ours = _by_place(evaluation, scoped)
    places = _places(evaluation, scoped)
    for invocation, frame in frames.items():
        changed = {}
        for function in frame.steps:
            wanted = ours[places[invocation], function]
            found = theirs.get((places[invocation], function), [])
            if found and len(found) != len(wanted):
                changed[function] = _aligned(wanted, found, steps)
        if changed:
            frame.training = {**frame.steps, **changed}


def _aligned(wanted: list[Node | None], found: list[Node | None], steps: Mapping[Node, Step]) -> list[Step | None]:
    """Steps for the calls in training: those with random numbers exist there only."""
    waiting = [None if node is None else steps.get(node) for node in wanted]
    aligned: list[Step | None] = []
    for node in found:
        noise = node is not None and any(each.random for each in node.arguments.values())
        aligned.append(None if noise or not waiting else waiting.pop(0))
    return aligned


def _add_methods(
    frames: Mapping[Invocation, Frame],
    evaluation: Recording,
    training: Recording | None,
    steps: Mapping[Node, Step],
    scoped: frozenset[str],
    calls: Mapping[str, Calls],
) -> None:
    """Tell what had been called when a forward called a method that quantizes."""
    places, theirs = _places(evaluation, scoped), {}
    if training is not None:
        of_training = _places(training, scoped)
        theirs = {(of_training.get(invocation), name): each for (invocation, name), each in training.methods.items()}
    for (invocation, name), method in evaluation.methods.items():
        frame = frames.get(invocation)
        if frame is None or not any(node in steps for node in method.nodes):
            continue
        frame.methods[name] = _counts_before(evaluation, method, scoped, calls, frame)
        if training is not None and (places[invocation], name) in theirs:
            of_training_run = theirs[places[invocation], name]
            frame.training_methods[name] = _counts_before(training, of_training_run, scoped, calls, frame)


def _counts_before(
    recording: Recording, method: MethodCall, scoped: frozenset[str], calls: Mapping[str, Calls], frame: Frame
) -> Mapping[Any, int]:
    """How often the forward had called each function that it quantizes, and each module that quantizes."""
    functions = (each for each in recording.calls[: method.calls] if each[0] in frame.steps)
    modules = (each for each in recording.invocations[: method.invocations] if each.path in scoped)
    return Counter(
        [function for function, invocation, _ in functions if _scope(invocation, scoped) is method.invocation]
        + [calls[each.path] for each in modules if _scope(each.parent, scoped) is method.invocation]
    )


def _places(recording: Recording, scoped: frozenset[str]) -> dict[Invocation, tuple[Any, ...]]:
    """What tells a call of a module in one run from others, as it does in another run."""
    counts: Counter[tuple[Any, ...]] = Counter()
    found: dict[Invocation, tuple[Any, ...]] = {}
    for invocation in recording.invocations:
        if invocation.path in scoped:
            parent = _scope(invocation.parent, scoped)
            inside = found[parent] if parent is not None else ()
            place = (*inside, invocation.path)
            found[invocation] = (*place, counts[place])
            counts[place] += 1
    return found


def _by_place(
    recording: Recording, scoped: frozenset[str]
) -> dict[tuple[tuple[Any, ...], Callable[..., Any]], list[Node | None]]:
    places = _places(recording, scoped)
    found: dict[tuple[tuple[Any, ...], Callable[..., Any]], list[Node | None]] = {}
    for function, invocation, node in recording.calls:
        scope = _scope(invocation, scoped)
        if scope is not None:
            found.setdefault((places[scope], function), []).append(node)
    return found
