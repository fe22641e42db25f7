"""Where every tensor of a forward pass comes from, followed operator by operator."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

_ACTIVATIONS = (
    "relu gelu silu mish elu hardswish hardsigmoid hardtanh leaky_relu log_sigmoid_forward "
    "softplus tanh sigmoid _prelu_kernel prelu clamp clamp_min clamp_max"
)
_NORMS = (
    "native_layer_norm native_group_norm native_batch_norm _native_batch_norm_legit "
    "_native_batch_norm_legit_no_training _batch_norm_with_update _batch_norm_no_update "
    "cudnn_batch_norm miopen_batch_norm _fused_rms_norm rms_norm"
)
_RESHAPES = (
    "view _unsafe_view reshape _reshape_alias permute transpose t contiguous clone _to_copy "
    "unsqueeze squeeze alias detach lift_fresh"
)
_KEEPS_IDENTITY = frozenset(f"{_ACTIVATIONS} {_NORMS} {_RESHAPES} dropout native_dropout".split())
"""Operators through which the identity path of a residual block may lead, as their first input."""

_READS = frozenset(("_local_scalar_dense", "is_nonzero", "equal"))
"""Operators that hand a tensor's value to Python, which may decide by it."""

NOT_MADE = -1
"""`made_at` of a tensor that was there before."""


@dataclass(slots=True)
class _Facts:
    """What is known of a tensor; sets of origins are the bits of an integer."""

    number: int
    made_at: int
    identity: int = 0
    residual: int = 0
    depends: int = 0


class Provenance(TorchDispatchMode):
    """Follows every operator while it is active.

    An *origin* is a tensor that entered some module. Of each tensor it knows the origins
    that lead to it by an identity path (only added to, activated, normalised, dropped out or
    reshaped), those to which something computed from themselves was added on that path (a residual
    connection), and those that it was computed from.

    Attributes:
        time: operators run so far; all other times are values of it.
        made_bytes: bytes that operators had allocated up to each time.
        reads: times at which a value was handed to Python, with the origins it depends on.
        marks: times at which a tensor was used that somebody had marked as needing a gradient.
    """

    def __init__(self, *, worst_draws: bool = False) -> None:
        """Start with nothing known.

        Args:
            worst_draws: a random number that is drawn alone is 0, so that whatever is left out at
                random (layer drop) is left out.
        """
        super().__init__()  # type: ignore[no-untyped-call]
        self.time = 0
        self.made_bytes = [0]
        self.reads: list[tuple[int, int]] = []
        self.marks: list[int] = []
        self._worst_draws = worst_draws
        self._facts = WeakTensorKeyDictionary()
        self._made: list[int] = []
        self._used: list[list[int]] = []
        self._num_origins = 0

    def number(self, tensor: Tensor) -> int:
        """Return the tensor's number; no other tensor of this pass has or had it."""
        return self._of(tensor).number

    def new_origin(self, tensor: Tensor) -> int:
        """Make a tensor an origin; return its bit."""
        facts = self._of(tensor)
        bit = 1 << self._num_origins
        self._num_origins += 1
        facts.identity |= bit
        facts.depends |= bit
        return bit

    def has_residual_path(self, tensor: Tensor, origin: int) -> bool:
        """Whether `tensor` is its origin plus something computed from it."""
        return bool(self._of(tensor).residual & origin)

    def made_at(self, number: int) -> int:
        """Return when a tensor was made, or `NOT_MADE`."""
        return self._made[number]

    def uses(self, number: int) -> list[int]:
        """Return when a tensor was used by an operator."""
        return self._used[number]

    def made_between(self, start: int, end: int) -> list[int]:
        """Return the numbers of the tensors that were made after `start`, up to `end`."""
        return [number for number, time in enumerate(self._made) if start < time <= end]

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run the operator and follow its results."""
        kwargs = kwargs or {}
        inputs = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        facts = [self._of(tensor) for tensor in inputs]
        self.time += 1
        name = func.__name__.partition(".")[0]
        depends = 0
        for one, tensor in zip(facts, inputs, strict=True):
            self._used[one.number].append(self.time)
            depends |= one.depends
            # Without gradients nothing that is made needs one, unless it is marked by hand.
            if tensor.requires_grad and one.made_at != NOT_MADE:
                self.marks.append(self.time)
        if name in _READS:
            self.reads.append((self.time, depends))
        identity, residual = _paths(name.removesuffix("_"), args, kwargs, facts)
        result = func(*args, **kwargs)
        if self._worst_draws and name == "rand" and result.dim() == 0:
            result = torch.zeros_like(result)
        made = 0
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                is_new = leaf not in self._facts
                out = self._of(leaf, made_at=self.time)
                out.identity, out.residual, out.depends = identity, residual, depends
                shares = any(_same_storage(leaf, tensor) for tensor in inputs)
                made += leaf.numel() * leaf.element_size() if is_new and not shares else 0
        self.made_bytes.append(self.made_bytes[-1] + made)
        return result

    def _of(self, tensor: Tensor, *, made_at: int = NOT_MADE) -> _Facts:
        facts: _Facts | None = self._facts.get(tensor)  # type: ignore[no-untyped-call]
        if facts is None:
            facts = _Facts(len(self._made), made_at)
            self._facts[tensor] = facts
            self._made.append(made_at)
            self._used.append([])
        return facts


def _paths(
    name: str, args: tuple[Any, ...], kwargs: dict[str, Any], facts: list[_Facts]
) -> tuple[int, int]:
    """Return the origins of an operator's result by identity path, and by residual path."""
    if not facts or not args or not isinstance(args[0], Tensor):
        return 0, 0
    first = facts[0]
    if name in _KEEPS_IDENTITY:
        return first.identity, first.residual
    if name not in ("add", "sub") or kwargs.get("alpha", 1) != 1:
        return 0, 0
    if len(facts) == 1:
        return first.identity, first.residual
    second = facts[1]
    # What is added must be computed from the origin: a position embedding makes no residual.
    residual = first.residual | (first.identity & second.depends)
    if name == "sub":
        return first.identity, residual
    return (
        first.identity | second.identity,
        residual | second.residual | (second.identity & first.depends),
    )


def _same_storage(one: Tensor, other: Tensor) -> bool:
    return one.untyped_storage() is other.untyped_storage() or (
        one.device.type != "meta"
        and one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr() != 0
    )
