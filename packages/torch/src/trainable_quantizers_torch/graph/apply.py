"""Puts quantizers into a model, at the places that the core chose."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from torch import nn
from trainable_quantizers_core.graph.operation import SOURCES
from trainable_quantizers_core.graph.settle import Settled

from trainable_quantizers_torch.graph.build import RecordedGraph
from trainable_quantizers_torch.graph.fold import Fold, close, replace_everywhere
from trainable_quantizers_torch.graph.frames import ScopedRun, frames_of, scopes
from trainable_quantizers_torch.graph.kinds import is_container, is_standard
from trainable_quantizers_torch.graph.recording import Invocation, Node, Recording
from trainable_quantizers_torch.graph.runtime import QUANTIZERS, Calls, Method, Place, QuantizedCalls, Quantizers, Step
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
        """Pass the results of operations through modules, before any quantizers."""
        both = {at: nn.Sequential(each, self.holders[at]) for at, each in outputs.items() if at in self.holders}
        self._attach({**self.holders, **outputs, **both})

    def leave(self) -> None:
        """Remove the modules that ``watch`` inserted."""
        self._attach(self.holders)

    def apply(self, settled: Sequence[Settled]) -> None:
        """Insert the quantizers: those of layer weights into wrappers, all others into holders."""
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
        """Register a holder in the module whose forward it serves, or in the nearest one that is not a container."""
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
        """The call that first computes with an input or constant."""
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
        quantizing = {self.where[node].path for node in steps if node in self.where}
        evaluation = ScopedRun(self.evaluation, scopes(self.evaluation, quantizing))
        training = None if self.training is None else ScopedRun(self.training, evaluation.paths)
        calls = {path: Calls(path) for path in evaluation.paths}
        layers = {path for path in self.folds if is_standard(self.modules[path])}
        parents: dict[str, Invocation | None] = {}
        for invocation, frame in frames_of(evaluation, training, steps, calls, layers).items():
            around = evaluation.scope(invocation.parent)
            if parents.setdefault(invocation.path, around) is around:
                calls[invocation.path].frames.append(frame)
        for path, of_module in calls.items():
            module = self.modules[path]
            mix(module, QuantizedCalls, first=True)
            module.quantized_calls = of_module
            if not isinstance(module, PytorchTrainableQuantizationWrapper) and of_module.frames:
                vars(module).update({name: Method(module, name) for name in of_module.frames[0].methods})


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
