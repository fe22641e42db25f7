"""One pass through a run: the integer state, and what each block needs to run again."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from momentum_core.errors import ReversibilityError, StateRangeError
from momentum_core.reversible import replay, update
from momentum_core.reversible.arguments import Arguments
from momentum_core.reversible.buffers import version_of
from momentum_core.reversible.captured import check_captured, edge_of
from momentum_core.reversible.checksum import checksum
from momentum_core.reversible.evaluation import Block, Evaluation, check_output
from momentum_core.reversible.fixed_point import work_dtype
from momentum_core.reversible.pull_back import scaled_root
from momentum_core.reversible.read import ReadPosition
from momentum_core.reversible.replay import Circumstances
from momentum_core.reversible.update import IntegerState, RangeCheck


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
        earlier: Sequence[Circumstances],
    ) -> None:
        self.state = state
        self.name = name
        self.gamma = gamma
        self.position = 0
        """Blocks between the run's input and the state."""

        self.has_initial_velocity = has_initial_velocity
        self._start_x = checksum(state.x)
        self._start_v = None if starts_at_rest else checksum(state.v)
        """Of the velocity before the first block; None where that is 0."""

        self._arguments = arguments
        self._check = check
        self._position_needs_grad = position_needs_grad
        self._earlier = earlier
        """What the blocks before the first of the tape depended on."""

        self._history: list[Circumstances] = []

    @property
    def dtype(self) -> torch.dtype:
        """Float type in which blocks see the position."""
        return self.state.dtype

    def read_position(self) -> Tensor:
        """Return the position as the blocks see it, a new tensor."""
        return update.read_position(self.state)

    def start(self, block: Block, *, keep_graph: bool) -> Evaluation | None:
        """Set the velocity to what the module of `block` gives at the first position."""
        with self._buffers_restored_if_out_of_range():
            evaluation = self._first_run(block)
            assert evaluation.output is not None
            self.state.v = self._encode_velocity(evaluation.output)
        return evaluation if keep_graph else None

    def restart(self, block: Block) -> Evaluation:
        """Run the module of `start` again; check that it gives the velocity that is left.

        Raises:
            ReversibilityError: it does not.
        """
        evaluation = self._second_run(block)
        assert evaluation.output is not None
        self.state.v.sub_(self._encode_velocity(evaluation.output))
        self.check_reversed()
        return evaluation

    def advance(self, block: Block, *, keep_graph: bool) -> Evaluation | None:
        """Run `block` for the first time and move the state past it.

        Raises:
            StateRangeError: a value does not fit the state; buffers are as before the pass.
            ReversibilityError: the block could not be run again like this.
        """
        with self._buffers_restored_if_out_of_range():
            evaluation = self._first_run(block)
            kept = evaluation if keep_graph else None
            output, seen = evaluation.output, evaluation.seen
            assert output is not None
            evaluation.seen = None
            if block.trainable[0] is None:
                evaluation.output = None
            del evaluation  # its graph is not needed during the update
            self._check.where = block.where
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
        assert evaluation.output is not None
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
        """Open the backward pass.

        Raises:
            StateRangeError: a deferred range check failed.
        """
        self.raise_if_out_of_range()

    def raise_if_out_of_range(self) -> None:
        """Raise for what a deferred range check found; buffers are then as before the pass."""
        with self._buffers_restored_if_out_of_range():
            self._check.raise_if_failed()

    def check_start(self) -> None:
        """Check the state before the first block, unless the initial velocity comes yet."""
        if not self.has_initial_velocity:
            self.check_reversed()

    def check_reversed(self) -> None:
        """Raise unless the state is what the run started from and the store is empty.

        Raises:
            ReversibilityError: a block did not compute the same values the second time.
        """
        state = self.state
        if self._start_v is None:
            is_back = not bool(state.v.any())
        else:
            is_back = torch.equal(checksum(state.v), self._start_v)
        if is_back and state.store.is_empty() and torch.equal(checksum(state.x), self._start_x):
            return
        raise ReversibilityError(
            f"{self.name}: reversing did not lead back to the start, so the gradients are wrong: "
            + replay.NOT_THE_SAME_TWICE,
            code="not_deterministic",
        )

    @contextlib.contextmanager
    def _buffers_restored_if_out_of_range(self) -> Iterator[None]:
        try:
            yield
        except StateRangeError:
            replay.restore_buffers((*self._earlier, *self._history))
            raise

    def _first_run(self, block: Block) -> Evaluation:
        x, position, leaves, call = self._prepare(block)
        device = self.state.x.device
        arguments = self._arguments.tensors
        output, circumstances = replay.first_run(block.module, call, arguments, device)
        self._history.append(circumstances)
        check_output(output, self.state.x.shape, block.where)
        evaluation = self._evaluate(block, output, x, position, leaves)
        if evaluation.root is not None:
            known = (*block.parameters, *leaves)
            root = evaluation.root.node
            check_captured(root, block.module, known, block.where, position=position)
        return evaluation

    def _second_run(self, block: Block) -> Evaluation:
        circumstances = self._history.pop()
        replay.check_unchanged(circumstances, block.where)
        x, position, leaves, call = self._prepare(block)
        output = replay.second_run(circumstances, call, self.state.x.device)
        return self._evaluate(block, output, x, position, leaves)

    def _prepare(
        self, block: Block
    ) -> tuple[Tensor, GradientEdge | None, tuple[Tensor, ...], Callable[[], Any]]:
        with torch.enable_grad():
            if self.position or self._position_needs_grad:
                anchor = torch.empty((), requires_grad=True)
                x = ReadPosition.apply(self.read_position, anchor)
            else:
                x = self.read_position()
            leaves = tuple(
                tensor.detach().requires_grad_() for tensor in self._arguments.differentiable
            )
        # Now: once the block has written into x, x hangs behind what it wrote.
        return x, edge_of(x), leaves, self._arguments.call(block.module, x, leaves)

    def _evaluate(
        self,
        block: Block,
        output: Tensor,
        x: Tensor,
        position: GradientEdge | None,
        leaves: tuple[Tensor, ...],
    ) -> Evaluation:
        inputs: tuple[GradientEdge | Tensor, ...] = (*block.parameters, *leaves)
        if position is not None:
            inputs = (position, *inputs)
        coefficient, _, predictor = block.trainable
        uses_position = predictor is not None or (
            coefficient is not None and block.rule.includes_skip
        )
        return Evaluation(
            block.where,
            output.detach(),
            scaled_root(output, block.rule.coefficient, self.dtype),
            inputs,
            position is not None,
            x.detach() if version_of(x) == 0 else None,
            self.read_position() if uses_position else None,
        )

    def _encode_velocity(self, output: Tensor) -> Tensor:
        self._check.where = f"{self.name}, initial velocity"
        with torch.no_grad():
            floats = torch.empty_like(self.state.x, dtype=work_dtype(self.dtype)).copy_(output)
            scale = self.state.fixed_point.velocity_scale
            return update.encode(floats, scale, self._check, "its output")
