"""The modules that take the places of a run's blocks, and are called as those were called."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self, cast

from torch import Tensor, nn
from torch.utils import _pytree as pytree

from momentum_core.conversion.trace import ModuleCall, Place, TensorToken
from momentum_core.errors import ConversionError
from momentum_core.reversible import MomentumStack, recompute_whole


@dataclass(frozen=True, slots=True)
class OwnOutput:
    """Among the leaves of an output: the tensor that the block computed."""


@dataclass(frozen=True, slots=True)
class HandedOn:
    """Among the leaves of an output: an argument that is returned as it came."""

    path: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class CallPattern:
    """How a block is called and what it returns.

    Attributes:
        place: position or keyword of the block's input among its arguments.
        output: its output, with `OwnOutput`, `HandedOn` or plain values as leaves.
    """

    place: Place
    output: Any

    @classmethod
    def of(cls, call: ModuleCall, place: Place) -> Self:
        """Return the pattern of a call whose first output is its own."""
        own = call.outputs[0]
        paths = {one.value: one.path for one in call.tensors}

        def leaf(value: Any) -> Any:
            if value == own:
                return OwnOutput()
            return HandedOn(paths[value]) if isinstance(value, TensorToken) else value

        return cls(place, pytree.tree_map(leaf, call.output))

    @classmethod
    def plain(cls) -> Self:
        """Return the pattern of a module that takes one tensor and returns one."""
        return cls(0, OwnOutput())

    def to_json(self) -> dict[str, Any]:
        """Return the pattern as JSON values.

        Raises:
            ConversionError: `not_storable`, when the block returns an object of a class.
        """
        return {"place": self.place, "output": _to_json(self.output)}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """Make the pattern of what `to_json` gave.

        Raises:
            KeyError, TypeError, ValueError: it is not what `to_json` gave.
        """
        place = values["place"]
        if type(place) not in (int, str):
            raise ValueError(f"a block's input stands at {place!r}")
        return cls(place, _from_json(values["output"]))

    @property
    def is_plain(self) -> bool:
        """Whether the block is called as a stack calls its blocks."""
        return self.place == 0 and isinstance(self.output, OwnOutput)

    def give(self, x: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Return `x` in the form of the block's output."""
        if isinstance(self.output, OwnOutput):
            return x

        def fill(leaf: Any) -> Any:
            if isinstance(leaf, OwnOutput):
                return x
            return pytree.key_get((args, kwargs), leaf.path) if isinstance(leaf, HandedOn) else leaf

        return pytree.tree_map(fill, self.output)

    def take(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Tensor, tuple[Any, ...], dict[str, Any]]:
        """Take the input out of a call's arguments; return it and the others."""
        if isinstance(self.place, str):
            rest = dict(kwargs)
            return cast(Tensor, rest.pop(self.place)), args, rest
        if self.place >= len(args):
            raise TypeError(
                f"a converted block takes its input as positional argument {self.place}, as in the "
                f"example; this call has {len(args)}"
            )
        return args[self.place], args[: self.place] + args[self.place + 1 :], kwargs

    def put(
        self, x: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Undo `take`."""
        if isinstance(self.place, str):
            return args, {**kwargs, self.place: x}
        return (*args[: self.place], x, *args[self.place :]), kwargs


class ConvertedRun(nn.Module):
    """Stands where a run's first block stood, and does the work of all of them.

    Attributes that it does not have itself are those of the first block: parents may ask for them.
    """

    def __init__(self, stack: MomentumStack, pattern: CallPattern, *, whole: bool = False) -> None:
        """Wrap a stack.

        Args:
            stack: of the run's blocks, each in a `CalledBlock` unless the pattern is plain.
            pattern: how the blocks are called.
            whole: keep the run's input alone, and run it again before it is reversed; for blocks
                that take nothing else.
        """
        super().__init__()
        self.stack = stack
        self.pattern = pattern
        self.whole = whole

    @property
    def original_blocks(self) -> list[nn.Module]:
        """The run's blocks as they were in the original model."""
        return [
            inner.block if isinstance(inner, CalledBlock) else inner for inner in self.stack.blocks
        ]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return what the last block would, by the momentum rule."""
        x, rest, named = self.pattern.take(args, kwargs)
        if self.whole and not rest and not named:
            return self.pattern.give(recompute_whole(self.stack, x), args, kwargs)
        return self.pattern.give(self.stack(x, *rest, **named), args, kwargs)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "stack":
                raise
            return getattr(self.original_blocks[0], name)


class CalledBlock(nn.Module):
    """A block that is called otherwise than a stack calls its blocks, or returns a tuple."""

    def __init__(self, block: nn.Module, pattern: CallPattern) -> None:
        """Wrap a block."""
        super().__init__()
        self.block = block
        self.pattern = pattern

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Call the block in its own way; return the first tensor of its output."""
        given, named = self.pattern.put(x, args, kwargs)
        output = self.block(*given, **named)
        return cast(Tensor, output if isinstance(output, Tensor) else pytree.tree_leaves(output)[0])


class PassThrough(nn.Module):
    """Stands where a further module stood, whose work another stand-in has done already."""

    def __init__(self, original: nn.Module, pattern: CallPattern) -> None:
        """Stand in.

        Args:
            original: the module that stood there; it is reachable, but not registered here.
            pattern: how it is called.
        """
        super().__init__()
        self.__dict__["original"] = original
        self.pattern = pattern

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return the input in the form of the original's output."""
        x, _, _ = self.pattern.take(args, kwargs)
        return self.pattern.give(x, args, kwargs)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.__dict__["original"], name)


def _to_json(output: Any) -> dict[str, Any]:
    """Return an output, or a part of one, as a dictionary with one key: its kind."""
    match output:
        case OwnOutput():
            return {"own": True}
        case HandedOn(path):
            return {"argument": [_step_to_json(step) for step in path]}
        case None | bool() | int() | float() | str():
            return {"value": output}
    kind = type(output)
    if kind in (tuple, list):
        return {kind.__name__: [_to_json(one) for one in output]}
    if kind is dict and all(isinstance(key, str) for key in output):
        return {"dict": {key: _to_json(one) for key, one in output.items()}}
    raise _not_storable(kind)


def _step_to_json(step: Any) -> int | str:
    if isinstance(step, pytree.SequenceKey):
        return step.idx
    if isinstance(step, pytree.MappingKey) and isinstance(step.key, str):
        return step.key
    raise _not_storable(type(step))


def _not_storable(kind: type) -> ConversionError:
    return ConversionError(
        f"a block of the model hands on a {kind.__qualname__}, which a file cannot describe; "
        "blocks of a model that is stored take and return tensors, numbers, words, tuples, lists "
        "and dictionaries of them (transformers: return_dict=False)",
        code="not_storable",
    )


def _from_json(values: dict[str, Any]) -> Any:
    ((kind, content),) = values.items()
    match kind:
        case "own":
            return OwnOutput()
        case "argument":
            return HandedOn(
                tuple(
                    pytree.SequenceKey(step) if isinstance(step, int) else pytree.MappingKey(step)
                    for step in content
                )
            )
        case "value":
            return content
        case "tuple":
            return tuple(_from_json(one) for one in content)
        case "list":
            return [_from_json(one) for one in content]
        case "dict":
            return {key: _from_json(one) for key, one in content.items()}
    raise ValueError(f"a block's output has a part of the unknown kind {kind!r}")
