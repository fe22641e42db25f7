"""Run modules without keeping what their graph saves, and make it again when it is asked for.

The graph itself is the ordinary one: gradients pass through it in the engine's own time, so each
activation is freed as soon as it was used and each parameter's gradient is accumulated at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from momentum_core.errors import ReversibilityError
from momentum_core.reversible import replay
from momentum_core.reversible.buffers import version_of
from momentum_core.reversible.captured import check_captured, edge_of
from momentum_core.reversible.checksum import checksum
from momentum_core.reversible.function import refuse_double_backward
from momentum_core.reversible.replay import Circumstances, GraphNeeded
from momentum_core.reversible.switches import is_simulated

Run = Callable[[Tensor], Tensor]


def run_refillable(module: nn.Module, run: Run, x: Tensor, where: str) -> Tensor:
    """Return `run(x)`, whose graph will run it again when it needs what it saved.

    Args:
        module: what `run` runs.
        run: a function of `x` and the parameters and buffers of `module` alone.
        x: its input.
        where: names the module in messages.

    Raises:
        ReversibilityError: `run` writes into `x` or uses another tensor that needs a gradient.
        GraphNeeded: the module differentiates something itself; nothing has happened.
    """
    saved = _Saved(module, run, x, where)
    with saved_tensors_hooks(saved.pack, saved.unpack):
        output, circumstances = replay.first_run(
            module, lambda: run(x), (x,), x.device, keep_graph=True
        )
    edge = edge_of(output)
    if edge is not None:
        check_captured(edge.node, module, (x, *module.parameters()), where)
    saved.first_run_was(circumstances, checksum(output))
    return output


@dataclass(slots=True)
class _Entry:
    tensor: Tensor
    version: int


class _Saved:
    """What the graph of one run saved: the number of tensors first, the tensors when asked for."""

    def __init__(self, module: nn.Module, run: Run, x: Tensor, where: str) -> None:
        self._run = run
        self._x = x
        self._where = where
        kept = (*module.parameters(), *module.buffers(), x)
        self._kept = {id(tensor.untyped_storage()): tensor for tensor in kept if _is_plain(tensor)}
        """Tensors whose memory is held anyway, by storage: views of them are saved, too."""

        self._trained = tuple((p, p.requires_grad) for p in module.parameters())
        self._were_kept: list[bool] = []
        """Of each saved tensor, in the order of saving."""

        self._entries: list[_Entry | None] = []
        self._circumstances: Circumstances | None = None
        self._checksum: Tensor | None = None

    def first_run_was(self, circumstances: Circumstances, checksum: Tensor) -> None:
        """Write down what the first run depended on and what came of it."""
        self._circumstances = circumstances
        self._checksum = checksum

    def pack(self, tensor: Tensor) -> Tensor | int:
        """Return what the graph holds in place of `tensor`."""
        is_kept = _is_plain(tensor) and id(tensor.untyped_storage()) in self._kept
        self._were_kept.append(is_kept)
        return tensor.detach() if is_kept else len(self._were_kept) - 1

    def unpack(self, packed: Tensor | int) -> Tensor:
        """Return a saved tensor, which is then no longer held here.

        Raises:
            ReversibilityError: the modules cannot be run again as they were.
        """
        if self._circumstances is None:
            raise GraphNeeded
        refuse_double_backward(self._where)
        if isinstance(packed, Tensor):
            self._check_unchanged()
            return packed
        if not self._entries or self._entries[packed] is None:
            self._refill()
        entry = self._entries[packed]
        assert entry is not None
        self._entries[packed] = None
        if version_of(entry.tensor) != entry.version:
            raise ReversibilityError(
                f"{self._where}: a tensor that its backward pass needs was overwritten by a later "
                "operation; make that operation not work in place",
                code="overwritten",
            )
        return entry.tensor

    def _check_unchanged(self) -> None:
        assert self._circumstances is not None
        if any(parameter.requires_grad != before for parameter, before in self._trained):
            raise ReversibilityError(
                f"{self._where}: requires_grad was switched off for a parameter, or on, between "
                "the forward and the backward pass; freeze parameters only after backward()",
                code="changed_before_backward",
            )
        replay.check_unchanged(self._circumstances, self._where)

    def _refill(self) -> None:
        self._check_unchanged()
        assert self._circumstances is not None
        assert self._checksum is not None
        leaf = self._x.detach().requires_grad_(self._x.requires_grad)
        entries: list[_Entry | None] = []

        def take(tensor: Tensor) -> None:
            at = len(entries)
            is_kept = at < len(self._were_kept) and self._were_kept[at]
            taken = tensor.detach()
            entries.append(None if is_kept else _Entry(taken, version_of(taken)))

        with saved_tensors_hooks(take, _never_asked_for):
            output = replay.second_run(self._circumstances, lambda: self._run(leaf), leaf.device)
        is_same = len(entries) == len(self._were_kept) and (
            is_simulated() or torch.equal(checksum(output), self._checksum)
        )
        if not is_same:
            raise ReversibilityError(
                f"{self._where}: its output is not that of the forward pass, so the gradients "
                "would be wrong: " + replay.NOT_THE_SAME_TWICE,
                code="not_deterministic",
            )
        self._entries = entries


def _is_plain(tensor: Tensor) -> bool:
    return tensor.layout == torch.strided


def _never_asked_for(_: None) -> Tensor:
    raise AssertionError("the graph of a second run is not differentiated")
