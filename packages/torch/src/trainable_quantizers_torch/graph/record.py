"""Records a run of a model: each function call, and the module call it belongs to."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from types import CodeType, FrameType
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack
from torch.utils import _pytree
from torch.utils.weak import WeakIdKeyDictionary

from trainable_quantizers_torch.graph import kinds
from trainable_quantizers_torch.graph.attention import PARTS, has_parts
from trainable_quantizers_torch.graph.describe import Describer
from trainable_quantizers_torch.graph.recording import Invocation, MethodCall, Node, Recording
from trainable_quantizers_torch.graph.weights import Path
from trainable_quantizers_torch.layers.mixed import mix


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
        self.results: Any = WeakIdKeyDictionary()  # the result of such a function -> the tensor
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
        self.describer = Describer(self.modules, self.owners)

    def watched(self, module: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """A call of a module."""
        path = self.paths[module]
        invocation = Invocation(path, self.stack[-1] if self.stack else None)
        if path and kinds.counts_as_one(module) and not any(each.whole for each in self.stack):
            invocation.whole = self.describer.whole(path, self._arguments(args, kwargs))
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

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """PyTorch calls this in place of a function."""
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
            skipped = Node("skipped", "batch_norm", "", arguments=arguments)
            self.recording.calls.append((function, invocation, skipped))
            return args[0]
        result = function(*args, **kwargs)
        changed = args[0] if result is None and args and isinstance(args[0], torch.Tensor) else result
        if not any(isinstance(leaf, torch.Tensor) for leaf in _pytree.tree_leaves(changed)):
            self.recording.calls.append((function, invocation, None))
            return result
        node = self.describer.node(invocation.path, function, arguments, args, kwargs, part)
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
        given = tensor.view_as(tensor)  # distinguishes readers of the tensor from readers of the result
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
        if id(tensor) not in self.held and tensor.numel() > 1:  # made by code that no mode sees
            return Node("input", "tensor", self._where("tensor"))
        return Node("constant", "tensor", self._where("constant"), constant=True)

    def _where(self, name: str) -> str:
        return ".".join(filter(None, (self.stack[-1].path if self.stack else "", name)))


def _is_method(module: nn.Module, code: CodeType) -> bool:
    """Whether code is that of a public method of a module, other than its forward."""
    name = code.co_name
    if name.startswith("_") or hasattr(nn.Module, name) or name == "forward":
        return False
    return getattr(inspect.unwrap(getattr(type(module), name, _is_method)), "__code__", None) is code


class _Watched:
    """A module whose calls a recorder sees; mixed into the module's own class."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The result of the module."""
        recorder = next((mode for mode in _get_current_function_mode_stack() if isinstance(mode, _Recorder)), None)
        forward = super().forward  # type: ignore[misc]
        return forward(*args, **kwargs) if recorder is None else recorder.watched(self, forward, args, kwargs)  # type: ignore[arg-type]
