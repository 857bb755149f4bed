"""A run of a model, recorded: what its forward computes, by which calls of which functions, in which modules."""

from __future__ import annotations

import inspect
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import CodeType, FrameType
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack
from torch.utils import _pytree
from torch.utils.weak import WeakIdKeyDictionary
from trainable_quantizers_core.graph.operation import Weight

from trainable_quantizers_torch.graph import kinds
from trainable_quantizers_torch.graph.attention import PARTS, has_parts
from trainable_quantizers_torch.graph.runtime import Path
from trainable_quantizers_torch.graph.weights import operands
from trainable_quantizers_torch.layers.mixed import classes_of, mix

NORM_LIKE = ("norm",)
WHOLE = "what it computes inside stays in float: it has no parts with bias_k, bias_v or add_zero_attn"
ACTIVATION_LIKE = ("activation", "gelu", "swish", "silu", "mish", "sigmoid")


@dataclass(eq=False)
class Node:
    """A tensor of a run: what made it, from what.

    Args:
        kind: As of an operation of the core.
        type: Name of the class or function.
        name: Where it is computed, and by what; not yet unique.
        function: The function whose call made it; None for what no function made.
        arguments: Nodes of the tensors it was made from, by where they stand among the arguments.
        read: Those of them that the operation computes with: not weights, biases, indices.
        weights: Weights among the arguments, by where they stand, with their values.
        layer: Path of the module that computes it alone.
        work: Multiply-accumulates.
        constant: Whether it depends on parameters and constants alone.
        random: Whether it depends on random numbers alone.
        loss: Whether it depends on a loss.
        parameter: Full name, if it is a parameter itself.
        size: Number of elements.
        ndim: Number of axes.
        floating: Whether it holds floating numbers.
        items: Which items of a tuple are its result; None for a tensor.
        norm: Path of the module of a batch norm by constants.
        takes_bias: Whether a layer's bias stands where its function takes one, or None does.
        bias: Name of that bias; empty where there is None.
        inside: What it computes inside stays in float, and why.
        in_place: Whether it changes its first argument, from which the forward reads the result.
    """

    kind: str
    type: str
    name: str
    function: Callable[..., Any] | None = None
    arguments: dict[Path, Node] = field(default_factory=dict)
    read: tuple[Path, ...] = ()
    weights: dict[Path, tuple[Weight, torch.Tensor, Node]] = field(default_factory=dict)
    layer: str = ""
    work: int = 0
    constant: bool = False
    random: bool = False
    loss: bool = False
    parameter: str = ""
    size: int = 0
    ndim: int = 0
    floating: bool = True
    items: tuple[int, ...] | None = None
    norm: str = ""
    takes_bias: bool = False
    bias: str = ""
    inside: str = ""
    in_place: bool = False


@dataclass(eq=False)
class Invocation:
    """One call of a module.

    Args:
        path: Name of the module.
        parent: The call that it was made in; None for the model's own.
        whole: What it computes, where that counts as one operation.
    """

    path: str
    parent: Invocation | None
    whole: Node | None = None


@dataclass(eq=False)
class MethodCall:
    """A method of a module, called while its forward ran; of several such calls the first.

    Args:
        invocation: The call of the module.
        name: Of the method.
        calls: How many functions had been called before.
        invocations: How many modules had been called before.
        nodes: What the functions made that it called.
    """

    invocation: Invocation
    name: str
    calls: int
    invocations: int
    nodes: list[Node] = field(default_factory=list)


@dataclass
class Recording:
    """All that one run did, in order.

    Args:
        calls: Functions, the calls of modules that they were called in, and what they made.
        nodes: What was made, by functions or by modules that count as one operation; inputs and constants first read.
        invocations: The calls of modules.
        outputs: What the model gave.
        methods: The public methods that forwards called, by call of the module and name.
    """

    calls: list[tuple[Callable[..., Any], Invocation, Node | None]] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)
    invocations: list[Invocation] = field(default_factory=list)
    outputs: list[Node] = field(default_factory=list)
    methods: dict[tuple[Invocation, str], MethodCall] = field(default_factory=dict)


def record(
    model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], names: Mapping[int, str], folded: Any = ()
) -> Recording:
    """Run a model in the mode that it is in and record it.

    Args:
        model: A copy: what its forward changes stays changed.
        args: Positional arguments.
        kwargs: Keyword arguments.
        names: Names of the tensors among them, by identity.
        folded: Paths of batch norms that give their input.
    """
    recorder = _Recorder(model, names, frozenset(folded))
    for module in list(recorder.modules.values()):
        if not isinstance(module, torch.jit.ScriptModule):
            mix(module, _Watched, first=True)
    with recorder:
        result = model(*args, **kwargs)
    found = (recorder.made_by(tensor) for tensor in tensors_in(result))
    recorder.recording.outputs = [node for node in found if node is not None]
    return recorder.recording


def tensors_in(value: Any) -> Iterator[torch.Tensor]:
    """The tensors in nested lists, dictionaries, named tuples and objects."""
    for leaf in _pytree.tree_leaves(value):
        if isinstance(leaf, torch.Tensor):
            yield leaf
        elif hasattr(leaf, "__dict__") and not isinstance(leaf, (nn.Module, type)) and not callable(leaf):
            yield from tensors_in({name: item for name, item in vars(leaf).items() if not hasattr(item, "__dict__")})
            yield from (item for item in vars(leaf).values() if isinstance(item, torch.Tensor))


class _Recorder(TorchFunctionMode):
    """Sees every function that a forward calls."""

    def __init__(self, model: nn.Module, names: Mapping[int, str], folded: frozenset[str]) -> None:
        super().__init__()
        self.recording = Recording()
        self.known: Any = WeakIdKeyDictionary()  # tensors -> nodes
        self.changed: Any = WeakIdKeyDictionary()  # tensors that a function changed -> its node
        self.results: Any = WeakIdKeyDictionary()  # what such a function gave instead -> the tensor
        self.names, self.folded = names, folded
        self.stack: list[Invocation] = []
        self.modules = dict(model.named_modules())
        self.paths = {module: path for path, module in self.modules.items()}
        self.owners: dict[int, tuple[str, str]] = {}  # of parameters: path of the module, name
        self.buffers: dict[int, str] = {}
        held = (leaf for module in self.modules.values() for leaf in _pytree.tree_leaves(dict(vars(module))))
        self.held = {id(leaf) for leaf in held if isinstance(leaf, torch.Tensor)}  # constants of the model
        for path, module in self.modules.items():
            for name, parameter in module._parameters.items():
                if parameter is not None:
                    self.owners.setdefault(id(parameter), (path, name))
            for name, buffer in module._buffers.items():
                if buffer is not None:
                    self.buffers[id(buffer)] = f"{path}.{name}".lstrip(".")

    def watched(self, module: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """A call of a module."""
        path = self.paths[module]
        invocation = Invocation(path, self.stack[-1] if self.stack else None)
        if path and counts_as_one(module) and not any(each.whole for each in self.stack):
            invocation.whole = self._whole(path, module, args, kwargs)
        self._methods()
        self.stack.append(invocation)
        self.recording.invocations.append(invocation)
        try:
            result = forward(*args, **kwargs)
        finally:
            self.stack.pop()
        if invocation.whole is not None:
            self._made(invocation.whole, result)
        return result

    def _whole(self, path: str, module: nn.Module, args: Any, kwargs: Any) -> Node:
        kind = "norm" if _named_like(module, NORM_LIKE) else "activation"
        node = Node(kind, class_name(module), path, layer=path)
        node.arguments = self._arguments(args, kwargs)
        node.read = tuple(list(_activations(node))[:1])
        return node

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """What PyTorch calls in the place of a function."""
        kwargs = kwargs or {}
        if not self.stack or any(invocation.whole for invocation in self.stack):
            return func(*args, **kwargs)
        if func in PARTS and has_parts(func, args, kwargs):
            return PARTS[func](self._part, *args, **kwargs)
        return self._called(func, args, kwargs, "")

    def _part(self, name: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return self._called(function, args, kwargs, name)

    def _called(self, function: Callable[..., Any], args: Any, kwargs: Any, part: str) -> Any:
        invocation, methods = self.stack[-1], self._methods()
        arguments = self._arguments(args, kwargs)
        if kinds.name_of(function) == "batch_norm" and invocation.path in self.folded:
            self.recording.calls.append((function, invocation, self._skipped(arguments)))
            return args[0]
        result = function(*args, **kwargs)
        changed = args[0] if result is None and args and isinstance(args[0], torch.Tensor) else result
        if not any(isinstance(leaf, torch.Tensor) for leaf in _pytree.tree_leaves(changed)):
            self.recording.calls.append((function, invocation, None))
            return result
        node = self._node(function, arguments, args, kwargs, part)
        self.recording.calls.append((function, invocation, node))
        for method in methods:
            method.nodes.append(node)
        self._made(node, changed)
        if not args or changed is not args[0]:
            return result
        node.in_place = result is None
        tensor = self.results.get(changed, changed)
        self.changed[tensor] = node
        if result is None:
            return None
        given = tensor.view_as(tensor)  # a forward that reads the tensor itself did not take the result
        self.results[given] = tensor
        return given

    def made_by(self, tensor: torch.Tensor) -> Node | None:
        """The node of a tensor that the forward reads; None if no function made it."""
        if tensor in self.changed:
            self.changed[tensor].in_place = True
        found: Node | None = self.known.get(self.results.get(tensor, tensor))
        return found

    def _methods(self) -> list[MethodCall]:
        """The public methods that the running forward is in, of its own module."""
        found: list[MethodCall] = []
        if not self.stack or kinds.is_standard(self.modules[self.stack[-1].path]):
            return found
        invocation = self.stack[-1]
        module = self.modules[invocation.path]
        frame: FrameType | None = sys._getframe(1)
        while frame is not None and frame.f_code is not _Recorder.watched.__code__:
            code, frame = frame.f_code, frame.f_back
            if _is_method(module, code):
                calls, invocations = len(self.recording.calls), len(self.recording.invocations)
                made = MethodCall(invocation, code.co_name, calls, invocations)
                found.append(self.recording.methods.setdefault((invocation, code.co_name), made))
        return found

    def _skipped(self, arguments: dict[Path, Node]) -> Node:
        return Node("skipped", "batch_norm", "", arguments=arguments)

    def _made(self, node: Node, result: Any) -> None:
        tensors = [leaf for leaf in _pytree.tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        node.floating = any(tensor.is_floating_point() for tensor in tensors)
        node.size = max((tensor.numel() for tensor in tensors), default=0)
        node.ndim = max((tensor.ndim for tensor in tensors), default=0)
        function = node.function
        if function is not None and (kinds.is_random(function) or kinds.is_factory(function)):
            node.arguments, node.read = {}, ()
        made_of = [*node.arguments.values()]
        node.random = function is not None and kinds.is_random(function)
        node.random |= any(each.random for each in made_of) and all(each.random or each.constant for each in made_of)
        node.constant = not node.random and all(each.constant for each in made_of)
        node.loss = (function is not None and kinds.is_loss(function)) or any(each.loss for each in made_of)
        if node.loss:
            node.kind = "other"
        self.recording.nodes.append(node)
        for tensor in tensors:
            self.known[self.results.get(tensor, tensor)] = node

    def _arguments(self, args: Any, kwargs: Any) -> dict[Path, Node]:
        found: dict[Path, Node] = {}
        for place, value in (*enumerate(args), *kwargs.items()):
            if place == "out":  # is written and not read
                continue
            if isinstance(value, torch.Tensor):
                found[(place,)] = self._node_of(value)
            elif isinstance(value, (list, tuple)):
                for index, item in enumerate(value):
                    if isinstance(item, torch.Tensor):
                        found[(place, index)] = self._node_of(item)
        return found

    def _node_of(self, tensor: torch.Tensor) -> Node:
        node = self.made_by(tensor)
        if node is None:
            node = self._source(tensor)
            node.size, node.floating = tensor.numel(), tensor.is_floating_point()
            self.recording.nodes.append(node)
            self.known[tensor] = node
        return node

    def _source(self, tensor: torch.Tensor) -> Node:
        if id(tensor) in self.owners:
            name = ".".join(filter(None, self.owners[id(tensor)]))
            return Node("constant", "parameter", name, constant=True, parameter=name)
        if id(tensor) in self.buffers:
            return Node("constant", "buffer", self.buffers[id(tensor)], constant=True)
        if id(tensor) in self.names:
            return Node("input", "input", self.names[id(tensor)])
        if id(tensor) not in self.held and tensor.numel() > 1:  # made by what no mode sees
            return Node("input", "tensor", self._where("tensor"))
        return Node("constant", "tensor", self._where("constant"), constant=True)

    def _where(self, name: str) -> str:
        return ".".join(filter(None, (self.stack[-1].path if self.stack else "", name)))

    def _node(
        self, function: Callable[..., Any], arguments: dict[Path, Node], args: Any, kwargs: Any, part: str
    ) -> Node:
        path = self.stack[-1].path
        module = self.modules[path]
        word, kind = kinds.name_of(function), kinds.kind_of(function)
        node = Node(kind, word, self._where(part or word), function, arguments)
        standard = kinds.is_standard(module) and kind != "other" and not part
        if standard or (kinds.is_standard(module) and kinds.is_identity(function) and not part):
            node.name, node.layer, node.type = path, path, class_name(module)
        if kind == "recurrent":
            _recurrent(node, module, args)
        elif kind in ("conv", "conv_transpose", "linear", "matmul", "embedding"):
            self._weighted(node, args, kwargs)
            if part.endswith("_proj"):
                node.type = "attention"
        elif kind == "attention":  # one that has no parts: see attention.py
            node.read, node.items = tuple(_activations(node))[:3], (0,)
            node.inside = WHOLE
            node.work = 4 * args[0].numel() * args[0].shape[-1]  # the projections
        elif kind in ("norm", "activation", "pool"):
            node.read = tuple(_activations(node))[:1]
        elif kind in ("add", "mul", "concat"):
            node.read = tuple(
                path for path, each in arguments.items() if each.floating and (each.size > 1 or not each.constant)
            )
        elif word == "masked_scores":
            node.read = ((0,),)
        else:
            node.read = tuple(_activations(node))
        if word == "batch_norm" and isinstance(module, nn.modules.batchnorm._BatchNorm) and not _by_batch(args, kwargs):
            node.norm = path
        return node

    def _weighted(self, node: Node, args: Any, kwargs: Any) -> None:
        """Tell weights from inputs, name the layer that owns them, count the work."""
        function, path = node.function, self.stack[-1].path
        assert function is not None
        module = self.modules[path]
        roles = operands(function, args, kwargs)
        weights = {place: axis for place, axis in roles.weights.items() if self._is_weight(node, place)}
        for place, axis in weights.items():
            tensor, made = _at(place, args, kwargs), node.arguments[place]
            name, shared = "weight", made.parameter
            if made.parameter:
                owner, attribute = self._owner(tensor)
                if self._is_layer(owner) and not node.weights:
                    node.name, node.layer, name = owner, owner, attribute
                    if node.type != "attention":
                        node.type = class_name(self.modules[owner])
            elif len(weights) > 1:
                name = f"weight_{place[-1]}"
            if not node.layer and not module._modules and path and not kinds.is_standard(module):
                node.name, node.type = path, class_name(module)  # a layer of one's own
            node.weights[place] = (Weight(name, axis, shared), tensor, made)
        node.read = tuple(place for place in roles.inputs if place in node.arguments and place not in weights)
        if node.kind != "embedding":
            node.read = tuple(place for place in node.read if node.arguments[place].floating)
        node.work = roles.macs
        if node.kind == "conv" and roles.depthwise:
            node.kind = "depthwise_conv"
        bias = _at((2,), args, kwargs, "bias")
        own = self.modules[node.layer]._parameters if node.layer else {}
        node.takes_bias = "bias" in own and own["bias"] is bias
        direct = any(weight.shared for weight, _, _ in node.weights.values())  # not one that is computed
        node.bias = "bias" if node.takes_bias and bias is not None and direct else ""

    def _owner(self, tensor: torch.Tensor) -> tuple[str, str]:
        """The module that holds a parameter, the running one if it does, and its name there."""
        path = self.stack[-1].path
        for name, parameter in self.modules[path]._parameters.items():
            if parameter is tensor:
                return path, name
        return self.owners[id(tensor)]

    def _is_weight(self, node: Node, place: Path) -> bool:
        made = node.arguments.get(place)
        return made is not None and made.constant and made.floating and made.size > 1

    def _is_layer(self, path: str) -> bool:
        """Whether the module that owns a weight can be wrapped: not the model, and no weights inside it."""
        module = self.modules[path]
        inside = any(True for child in module.children() for _ in child.parameters())
        return bool(path) and not inside and not hasattr(module, "parametrizations")


def _is_method(module: nn.Module, code: CodeType) -> bool:
    """Whether code is that of a public method of a module, other than its forward."""
    name = code.co_name
    if name.startswith("_") or hasattr(nn.Module, name) or name == "forward":
        return False
    return getattr(inspect.unwrap(getattr(type(module), name, _is_method)), "__code__", None) is code


class _Watched:
    """A module whose calls a recorder sees; mixed into the module's own class."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the module computes."""
        recorder = next((mode for mode in _get_current_function_mode_stack() if isinstance(mode, _Recorder)), None)
        forward = super().forward  # type: ignore[misc]
        return forward(*args, **kwargs) if recorder is None else recorder.watched(self, forward, args, kwargs)  # type: ignore[arg-type]


def counts_as_one(module: nn.Module) -> bool:
    """Whether a module is one operation, whatever it computes inside: a norm or activation function of one's own."""
    if module._modules or kinds.is_standard(module) or isinstance(module, nn.modules.batchnorm._NormBase):
        return False
    if isinstance(module, (nn.LayerNorm, nn.GroupNorm)):
        return False
    return _named_like(module, NORM_LIKE) or (not module._parameters and _named_like(module, ACTIVATION_LIKE))


def _named_like(module: nn.Module, words: tuple[str, ...]) -> bool:
    return any(word in class_name(module).lower() for word in words)


def class_name(module: nn.Module) -> str:
    """That of the module's own class."""
    return classes_of(module)[-1].__name__


def _activations(node: Node) -> Iterator[Path]:
    return (path for path, each in node.arguments.items() if not each.constant and not each.random and each.floating)


def _recurrent(node: Node, module: nn.Module, args: Any) -> None:
    if isinstance(module, (nn.RNNBase, nn.RNNCellBase)):
        names, axis = kinds.weights_of(module)
        node.weights = {
            ("module", name): (
                Weight(name, axis, f"{node.layer}.{name}"),
                getattr(module, name),
                Node("constant", "", ""),
            )
            for name in names
        }
        samples = args[0].numel() // max(args[0].shape[-1], 1)
        node.work = samples * sum(getattr(module, name).numel() for name in names)
    node.inside = "what it computes inside stays in float"
    node.read = tuple(_activations(node))
    word = node.type.lower()
    node.items = None if word.endswith("cell") and "lstm" not in word else (0,) if word.endswith("cell") else (0, 1)


def _by_batch(args: Any, kwargs: Any) -> bool:
    training = _at((5,), args, kwargs, "training")
    return bool(training) or _at((1,), args, kwargs, "running_mean") is None


def _at(place: Path, args: Any, kwargs: Any, name: str = "") -> Any:
    first = place[0]
    by_position = isinstance(first, int) and first < len(args)
    value = args[first] if by_position else kwargs.get(name if isinstance(first, int) else first)
    return value[place[1]] if len(place) > 1 else value


def unique_names(nodes: list[Node]) -> dict[Node, str]:
    """A name for each node: those that come later get a number."""
    counts: Counter[str] = Counter()
    taken: set[str] = set()
    found = {}
    for node in nodes:
        name = node.name
        while name in taken:
            counts[node.name] += 1
            name = f"{node.name}_{counts[node.name]}"
        taken.add(name)
        found[node] = name
    return found
