"""One pass through a run: the integer state, and what each block needs to run again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge

from momentum_core.errors import ReversibilityError, StateRangeError
from momentum_core.reversible import replay, update
from momentum_core.reversible.arguments import Arguments
from momentum_core.reversible.captured import check_captured, edge_of
from momentum_core.reversible.fixed_point import work_dtype
from momentum_core.reversible.read import ReadPosition
from momentum_core.reversible.replay import Circumstances
from momentum_core.reversible.update import BlockRule, IntegerState, RangeCheck


@dataclass(frozen=True, slots=True)
class Block:
    """A block of the run, as one pass uses it."""

    module: nn.Module
    where: str
    """Run and block, for messages."""

    parameters: tuple[Tensor, ...]
    """Parameters that need a gradient."""

    rule: BlockRule
    trainable: tuple[Tensor | None, Tensor | None, Tensor | None]
    """c, b, p of the rule where they need a gradient."""

    correction: float
    multiplies: bool
    """Whether the velocity before the block may differ from 0."""


@dataclass(slots=True)
class Evaluation:
    """A block's output with the graph that leads to it."""

    output: Tensor
    """What the block returned, without its graph."""

    root: GradientEdge | None
    """Where the output hangs in the graph; None if it needs no gradient."""

    inputs: tuple[GradientEdge | Tensor, ...]
    """Position (if `with_position`), parameters and arguments: what to differentiate for."""

    with_position: bool
    seen: Tensor | None
    """The block's input, unless the block wrote into it."""

    position: Tensor | None
    """The block's input, where the rule's gradient needs it."""


class Tape:
    """State and history of one forward pass, consumed by one backward pass."""

    def __init__(
        self,
        state: IntegerState,
        arguments: Arguments,
        check: RangeCheck,
        *,
        name: str,
        gamma: float,
        position_needs_grad: bool,
        has_initial_velocity: bool,
        starts_at_rest: bool,
    ) -> None:
        self.state = state
        self.name = name
        self.gamma = gamma
        self.position = 0
        """Blocks between the run's input and the state."""

        self.has_initial_velocity = has_initial_velocity
        self.starts_at_rest = starts_at_rest
        """Whether the velocity before the first block is known to be 0."""

        self._arguments = arguments
        self._check = check
        self._position_needs_grad = position_needs_grad
        self._history: list[Circumstances] = []
        self._consumed = False

    @property
    def dtype(self) -> torch.dtype:
        """Float type in which blocks see the position."""
        return self.state.dtype

    def read_position(self) -> Tensor:
        """Return the position as the blocks see it, a new tensor."""
        return self.state.fixed_point.decode(self.state.x, self.state.dtype)

    def start(self, block: Block, *, keep_graph: bool) -> Evaluation | None:
        """Set the velocity to what the module of `block` gives at the first position."""
        evaluation = self._first_run(block)
        self.state.v = self._encode_velocity(evaluation.output)
        return evaluation if keep_graph else None

    def restart(self, block: Block) -> Evaluation:
        """Run the module of `start` again; check that it gives the velocity that is left.

        Raises:
            ReversibilityError: it does not.
        """
        evaluation = self._second_run(block)
        self.state.v.sub_(self._encode_velocity(evaluation.output))
        self.check_reversed()
        return evaluation

    def advance(self, block: Block, *, keep_graph: bool) -> Evaluation | None:
        """Run `block` for the first time and move the state past it.

        Raises:
            StateRangeError: a value does not fit the state; buffers are as before the pass.
            ReversibilityError: the block could not be run again like this.
        """
        evaluation = self._first_run(block)
        kept = evaluation if keep_graph else None
        output, seen = evaluation.output, evaluation.seen
        evaluation.seen = None
        del evaluation  # its graph is not needed during the update
        self._check.where = block.where
        try:
            with torch.no_grad():
                update.advance(
                    self.state,
                    output,
                    seen,
                    block.rule,
                    block.correction,
                    self._check,
                    multiply=block.multiplies,
                )
        except StateRangeError:
            for circumstances in reversed(self._history):
                circumstances.restore_buffers()
            raise
        self.position += 1
        return kept

    def rewind(self, block: Block) -> Evaluation:
        """Move the state back to before `block`, which runs again on the way.

        Raises:
            ReversibilityError: something that the block depends on has changed.
        """
        self.position -= 1
        with torch.no_grad():
            update.rewind_position(self.state)
        evaluation = self._second_run(block)
        with torch.no_grad():
            update.rewind_velocity(
                self.state,
                evaluation.output,
                evaluation.seen,
                block.rule,
                block.correction,
                multiply=block.multiplies,
            )
        evaluation.seen = None
        return evaluation

    def forget(self) -> None:
        """Step back over a block whose graph was kept."""
        self.position -= 1
        self._history.pop()

    def finish(self) -> Tensor:
        """Return the last position as floats; NaN all over if a deferred range check failed."""
        output = self.read_position()
        failed = self._check.any_failed()
        return output if failed is None else output.masked_fill_(failed, float("nan"))

    def begin_backward(self) -> None:
        """Allow one backward pass.

        Raises:
            ReversibilityError: there was one already.
            StateRangeError: a deferred range check failed.
        """
        if self._consumed:
            raise ReversibilityError(
                f"{self.name}: its state was rewound by an earlier backward pass and is gone; "
                "run the forward pass again before a second backward (retain_graph cannot help)",
                code="second_backward",
            )
        self._consumed = True
        self._check.raise_if_failed()

    def raise_if_out_of_range(self) -> None:
        """Raise for what a deferred range check found."""
        self._check.raise_if_failed()

    def check_start(self) -> None:
        """Check, before the first block, what is known of the state there."""
        if not self.has_initial_velocity and self.starts_at_rest:
            self.check_reversed()

    def check_reversed(self) -> None:
        """Raise unless the velocity is back at 0 and nothing is left in the store.

        Raises:
            ReversibilityError: a block did not compute the same values the second time.
        """
        if self.state.store.is_empty() and not bool(self.state.v.any()):
            return
        raise ReversibilityError(
            f"{self.name}: reversing did not lead back to the start, so the gradients are wrong: "
            "a block did not compute the same values twice; look for state outside of buffers, "
            "random numbers not drawn from torch, or a kernel that is not deterministic "
            "(torch.use_deterministic_algorithms(True) finds those)",
            code="not_deterministic",
        )

    def _first_run(self, block: Block) -> Evaluation:
        x, leaves, call = self._prepare(block)
        device = self.state.x.device
        arguments = self._arguments.tensors
        output, circumstances = replay.first_run(block.module, call, arguments, device)
        self._history.append(circumstances)
        self._check_output(block, output)
        evaluation = self._evaluate(block, output, x, leaves)
        if evaluation.root is not None:
            known = (x, *block.parameters, *leaves)
            check_captured(evaluation.root.node, block.module, known, block.where)
        return evaluation

    def _second_run(self, block: Block) -> Evaluation:
        circumstances = self._history.pop()
        replay.check_unchanged(circumstances, block.where)
        x, leaves, call = self._prepare(block)
        output = replay.second_run(circumstances, call, self.state.x.device)
        return self._evaluate(block, output, x, leaves)

    def _prepare(self, block: Block) -> tuple[Tensor, tuple[Tensor, ...], Callable[[], Any]]:
        with torch.enable_grad():
            if self.position or self._position_needs_grad:
                anchor = torch.empty((), requires_grad=True)
                x = ReadPosition.apply(self.read_position, anchor)
            else:
                x = self.read_position()
            leaves = tuple(
                tensor.detach().requires_grad_() for tensor in self._arguments.differentiable
            )
        return x, leaves, self._arguments.call(block.module, x, leaves)

    def _evaluate(
        self, block: Block, output: Tensor, x: Tensor, leaves: tuple[Tensor, ...]
    ) -> Evaluation:
        position = edge_of(x)
        inputs: tuple[GradientEdge | Tensor, ...] = (*block.parameters, *leaves)
        if position is not None:
            inputs = (position, *inputs)
        coefficient, _, predictor = block.trainable
        uses_position = predictor is not None or (
            coefficient is not None and block.rule.includes_skip
        )
        return Evaluation(
            output.detach(),
            edge_of(output),
            inputs,
            position is not None,
            x.detach() if x._version == 0 else None,
            self.read_position() if uses_position else None,
        )

    def _encode_velocity(self, output: Tensor) -> Tensor:
        self._check.where = f"{self.name}, initial velocity"
        with torch.no_grad():
            floats = torch.empty_like(self.state.x, dtype=work_dtype(self.dtype)).copy_(output)
            scale = self.state.fixed_point.velocity_scale
            return update.encode(floats, scale, self._check, "its output")

    def _check_output(self, block: Block, output: object) -> None:
        if not isinstance(output, Tensor) or not output.is_floating_point():
            kind = output.dtype if isinstance(output, Tensor) else type(output).__qualname__
            raise ReversibilityError(
                f"{block.where}: returned a {kind}; a block must return one float tensor",
                code="block_output",
            )
        if output.shape != self.state.x.shape:
            raise ReversibilityError(
                f"{block.where}: returned shape {tuple(output.shape)} for an input of shape "
                f"{tuple(self.state.x.shape)}; a block of a run must keep the shape",
                code="block_output",
            )
