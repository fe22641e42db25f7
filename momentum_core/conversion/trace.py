"""One forward pass of a model: which modules were called, with what, in which order."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from momentum_core.conversion.provenance import Provenance
from momentum_core.errors import ConversionError

ExampleInput = Tensor | tuple[Any, ...] | Mapping[str, Any]
"""A tensor, a tuple of positional arguments, or a mapping of keyword arguments."""

Place = int | str
"""Where an argument stands in a call: its position, or its keyword."""


@dataclass(frozen=True, slots=True)
class TensorToken:
    """Stands for a tensor: its number in the pass. Equal tokens are the same tensor."""

    number: int


@dataclass(frozen=True, slots=True)
class Argument:
    """One leaf among a call's arguments."""

    path: tuple[Any, ...]
    value: Any
    """A `TensorToken`, or the value itself."""

    @property
    def place(self) -> Place | None:
        """Its position or keyword, or None if it lies inside a tuple or dictionary."""
        if len(self.path) != 2:
            return None
        key = self.path[1]
        place: Place = key.idx if isinstance(key, pytree.SequenceKey) else key.key
        return place


@dataclass(frozen=True, slots=True)
class TensorKind:
    """Stands for a tensor of which only this matters."""

    shape: tuple[int, ...]
    dtype: torch.dtype


@dataclass(slots=True, eq=False)
class ModuleCall:
    """One call of one module."""

    name: str
    module: nn.Module
    parent: ModuleCall | None
    arguments: tuple[Argument, ...]
    entered: int
    left: int = 0
    given: tuple[tuple[Any, ...], dict[str, Any]] = ((), {})
    """Its positional and keyword arguments, with kinds in place of tensors."""
    shapes: tuple[tuple[int, ...] | None, ...] = ()
    """Shapes of the tensors among `arguments`, None for the rest."""
    output: Any = None
    """Its output, with tokens in place of tensors."""
    outputs: tuple[Any, ...] = ()
    """The leaves of `output`."""
    output_shape: tuple[int, ...] | None = None
    """Shape of the first output."""
    returns_tensor: bool = False
    """Whether its output is one tensor, not a tuple or dictionary."""
    residual: Argument | None = None
    """The argument that its first output is, plus something computed from it."""
    writes_input: bool = False
    """Whether it changed a tensor among its arguments."""

    @property
    def tensors(self) -> list[Argument]:
        """Its arguments that are tensors."""
        return [one for one in self.arguments if isinstance(one.value, TensorToken)]

    def contains(self, time: int) -> bool:
        """Whether an operator at this time was run inside the call."""
        return self.entered < time <= self.left

    def overlaps(self, other: ModuleCall) -> bool:
        """Whether one of the calls was made inside the other."""
        return self.entered < other.left and other.entered < self.left


@dataclass(frozen=True, slots=True)
class Trace:
    """A forward pass."""

    calls: tuple[ModuleCall, ...]
    """In the order in which they ended."""
    provenance: Provenance
    outputs: frozenset[int]
    """Numbers of the tensors that the model returned."""

    def num_calls(self, name: str) -> int:
        """How often a module was called."""
        return sum(call.name == name for call in self.calls)

    def is_used_only_in(self, call: ModuleCall, number: int, *, since: int) -> bool:
        """Whether a tensor is used in a call and nowhere else after a time.

        If the call works in place and returns the tensor itself, later uses are of its output.
        """
        uses = [time for time in self.provenance.uses(number) if time > since]
        if call.outputs[0] == TensorToken(number):
            return all(call.contains(time) for time in uses if time <= call.left)
        return number not in self.outputs and all(call.contains(time) for time in uses)

    def leaks(self, call: ModuleCall) -> bool:
        """Whether something made inside a call, other than its first output, is used outside."""
        return any(
            TensorToken(number) != call.outputs[0]
            and (
                number in self.outputs
                or any(time > call.left for time in self.provenance.uses(number))
            )
            for number in self.provenance.made_between(call.entered, call.left)
        )


def trace(model: nn.Module, example_input: ExampleInput, *, training: bool = False) -> Trace:
    """Run `model` once without gradients and record every call.

    The model is not changed: a copy is run, which shares the parameters.

    Args:
        model: any model.
        example_input: what its forward takes, on its device.
        training: run it in training mode, with everything left out that may be left out at random.

    Raises:
        ConversionError: `not_traceable`, when the copy or its forward pass fails.
    """
    copied = _copy(model).train(training)
    recorder = _Recorder(Provenance(worst_draws=training))
    args, kwargs = _call_arguments(example_input)
    with ExitStack() as stack:
        for name, module in copied.named_modules():
            if module is not copied:
                stack.enter_context(recorder.watching(name, module))
        stack.enter_context(_slow_attention())
        stack.enter_context(torch.random.fork_rng(devices=[]))
        stack.enter_context(torch.no_grad())
        stack.enter_context(recorder.provenance)
        try:
            outputs = copied(*args, **kwargs)
        except Exception as error:
            raise _failed(model, recorder.innermost, example_input, error) from error
    numbers = frozenset(
        recorder.provenance.number(leaf)
        for leaf in pytree.tree_leaves(outputs)
        if isinstance(leaf, Tensor)
    )
    return Trace(tuple(recorder.calls), recorder.provenance, numbers)


class _Recorder:
    """Hooks that record every call of the modules it watches."""

    def __init__(self, provenance: Provenance) -> None:
        self.provenance = provenance
        self.calls: list[ModuleCall] = []
        self._open: list[tuple[ModuleCall, list[tuple[Argument, Tensor, int, int]]]] = []

    @property
    def innermost(self) -> str | None:
        """Name of the module that is being called."""
        return self._open[-1][0].name if self._open else None

    @contextmanager
    def watching(self, name: str, module: nn.Module) -> Iterator[None]:
        """Record the calls of `module`."""

        def enter(_: nn.Module, args: Any, kwargs: Any) -> None:
            self._enter(name, module, args, kwargs)

        def leave(_: nn.Module, __: Any, ___: Any, output: Any) -> None:
            self._leave(output)

        handles = (
            module.register_forward_pre_hook(enter, with_kwargs=True),
            module.register_forward_hook(leave, with_kwargs=True),
        )
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _enter(self, name: str, module: nn.Module, args: Any, kwargs: Any) -> None:
        leaves, _ = pytree.tree_flatten_with_path((args, kwargs))
        arguments = tuple(Argument(path, self._token(leaf)) for path, leaf in leaves)
        given = [
            (argument, leaf, leaf._version, self._origin(leaf))
            for argument, (_, leaf) in zip(arguments, leaves, strict=True)
            if isinstance(leaf, Tensor)
        ]
        parent = self._open[-1][0] if self._open else None
        call = ModuleCall(name, module, parent, arguments, entered=self.provenance.time)
        call.given = pytree.tree_map_only(
            Tensor, lambda one: TensorKind(tuple(one.shape), one.dtype), (args, kwargs)
        )
        kinds = pytree.tree_leaves(call.given)
        call.shapes = tuple(one.shape if isinstance(one, TensorKind) else None for one in kinds)
        self._open.append((call, given))

    def _leave(self, output: Any) -> None:
        call, given = self._open.pop()
        call.left = self.provenance.time
        call.writes_input = any(leaf._version != version for _, leaf, version, _ in given)
        leaves = pytree.tree_leaves(output)
        call.output = pytree.tree_map(self._token, output)
        call.outputs = tuple(pytree.tree_leaves(call.output))
        call.returns_tensor = isinstance(output, Tensor)
        first = leaves[0] if leaves else None
        if isinstance(first, Tensor):
            call.output_shape = tuple(first.shape)
            call.residual = self._residual(first, given)
        self.calls.append(call)

    def _residual(
        self, output: Tensor, given: list[tuple[Argument, Tensor, int, int]]
    ) -> Argument | None:
        """Return the one argument that `output` is, plus something computed from it."""
        found = [
            argument
            for argument, leaf, _, origin in given
            if origin
            and leaf is not output
            and (leaf.shape, leaf.dtype) == (output.shape, output.dtype)
            and self.provenance.has_residual_path(output, origin)
        ]
        return found[0] if len(found) == 1 else None

    def _token(self, leaf: Any) -> Any:
        return TensorToken(self.provenance.number(leaf)) if isinstance(leaf, Tensor) else leaf

    def _origin(self, leaf: Tensor) -> int:
        return self.provenance.new_origin(leaf) if leaf.is_floating_point() else 0


def _copy(model: nn.Module) -> nn.Module:
    shared: dict[int, Any] = {id(parameter): parameter for parameter in model.parameters()}
    try:
        return copy.deepcopy(model, shared)
    except Exception as error:
        raise ConversionError(
            f"{type(model).__qualname__} cannot be copied ({error}); conversion works on a copy: "
            "remove what cannot be copied (hooks with open files, weight_norm of the old kind)",
            code="not_traceable",
        ) from error


def _call_arguments(example_input: ExampleInput) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(example_input, Tensor):
        return (example_input,), {}
    if isinstance(example_input, Mapping):
        return (), dict(example_input)
    return tuple(example_input), {}


@contextmanager
def _slow_attention() -> Iterator[None]:
    """Have `nn.TransformerEncoder` run its layers as modules, not as one fused operator."""
    mha = torch.backends.mha
    was_enabled = mha.get_fastpath_enabled()
    set_enabled: Callable[[bool], None] = mha.set_fastpath_enabled
    set_enabled(False)
    try:
        yield
    finally:
        set_enabled(was_enabled)


def _failed(
    model: nn.Module, module: str | None, example_input: ExampleInput, error: Exception
) -> ConversionError:
    where = f" in {module}" if module else ""
    leaves = pytree.tree_leaves(example_input)
    shapes = [f"{tuple(leaf.shape)}" for leaf in leaves if isinstance(leaf, Tensor)]
    reason = (str(error).splitlines() or [""])[0][:200]
    return ConversionError(
        f"{type(model).__qualname__} does not take the example input of shape "
        f"{', '.join(shapes)}{where}: {type(error).__name__}: {reason}; give an input that its "
        "forward takes, on its device",
        code="not_traceable",
    )
