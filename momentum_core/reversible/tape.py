"""One pass through a run: the integer state, and what each block needs to run again."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
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
from momentum_core.reversible.evaluation import Block, Evaluation, Handover, check_output
from momentum_core.reversible.fixed_point import work_dtype
from momentum_core.reversible.pull_back import scaled_root
from momentum_core.reversible.range_check import RangeCheck, encode
from momentum_core.reversible.read import ReadPosition
from momentum_core.reversible.replay import Circumstances, GraphNeeded
from momentum_core.reversible.run import Backward
from momentum_core.reversible.switches import device_kind, is_simulated
from momentum_core.reversible.update import IntegerState


@dataclass(frozen=True, slots=True)
class KeptPosition:
    """What a block saw, where every block's input is kept."""

    x: Tensor
    was_written: bool
    """Whether the block wrote into it, so that it needs a copy."""

    checksum: Tensor
    """Of the block's output."""

    def read(self) -> Tensor:
        """Return the position for another run of the block."""
        return self.x.clone() if self.was_written else self.x.view_as(self.x)


class Tape:
    """State and history of one forward pass, consumed by one backward pass."""

    def __init__(
        self,
        state: IntegerState,
        arguments: Arguments,
        check: RangeCheck,
        *,
        name: str,
        backward: Backward,
        gamma: float,
        position_needs_grad: bool,
        has_initial_velocity: bool,
        starts_at_rest: bool,
        earlier: Sequence[Circumstances],
    ) -> None:
        self.name = name
        self.gamma, self.fused = gamma, state.fused
        self.dtype = state.dtype
        """Float type in which blocks see the position."""

        self.position = 0
        """Blocks between the run's input and the state."""

        self.has_initial_velocity = has_initial_velocity
        self._state: IntegerState | None = state
        self._device, self._shape = state.x.device, state.x.shape
        self._backward = backward
        self._start_x = checksum(state.x)
        self._start_v = None if starts_at_rest else checksum(state.v)
        """Of the velocity before the first block; None where that is 0."""

        self._arguments = arguments
        self._check = check
        self._position_needs_grad = position_needs_grad
        self._earlier = earlier
        """What the blocks before the first of the tape depended on."""

        self._history: list[Circumstances] = []
        self._kept: list[KeptPosition] = []
        self._aside: Tensor | None = None
        """The position as floats, while the state does not have it."""

        self._next: Tensor | None = None
        """The position as floats, where moving the state gave it; the next to read it takes it."""

    @property
    def state(self) -> IntegerState:
        """The integers; only runs that are reversed have them after the forward pass."""
        assert self._state is not None
        return self._state

    def held_tensors(self) -> tuple[Tensor, ...]:
        """Return what the tape holds in place of activations."""
        kept = tuple(one.x for one in self._kept)
        return kept if self._state is None else (*kept, *self._state.tensors())

    def read_position(self) -> Tensor:
        """Return the position as the blocks see it, a new tensor."""
        floats, self._next = self._next, None
        return update.read_position(self.state) if floats is None else floats

    def let_go(self) -> None:
        """Hold nothing but the state: nobody may read the position soon."""
        self._next = None

    def start(self, block: Block) -> Evaluation | None:
        """Set the velocity to what the module of `block` gives at the first position."""
        with self._buffers_restored_if_out_of_range():
            evaluation = self._first_run(block)
            assert evaluation.output is not None
            self.state.v = self._encode_velocity(evaluation.output)
        return evaluation if self._backward == "stored" else None

    def restart(self, block: Block) -> Evaluation:
        """Run the module of `start` again; check that it gives the velocity that is left.

        Raises:
            ReversibilityError: it does not.
        """
        if self._backward == "recomputed":
            return self._run_at_kept(block)
        self._take_back_position()
        evaluation = self._second_run(block, self.read_position)
        assert evaluation.output is not None
        self.state.v.sub_(self._encode_velocity(evaluation.output))
        self.check_reversed()
        return evaluation

    def advance(self, block: Block) -> Evaluation | None:
        """Run `block` for the first time and move the state past it.

        Raises:
            StateRangeError: a value does not fit the state; buffers are as before the pass.
            ReversibilityError: the block could not be run again like this.
        """
        with self._buffers_restored_if_out_of_range():
            evaluation = self._first_run(block)
            kept = evaluation if self._backward == "stored" else None
            output = evaluation.output
            seen = None if update.is_compiled(self.state) else evaluation.seen
            assert output is not None
            evaluation.seen = None
            if block.trainable[0] is None:
                evaluation.output = None
            del evaluation  # its graph is not needed during the update
            self._check.where = block.where
            with torch.no_grad():
                self._next = update.advance(
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

    def recompute(self, block: Block) -> Evaluation:
        """Run `block` again, from its input: kept, or the state moved back to before the block.

        Raises:
            ReversibilityError: something that the block depends on has changed.
        """
        if self._backward == "reversible":
            evaluation = self.rewind(block)
            self._set_aside_position(evaluation)
            return evaluation
        self.position -= 1
        return self._run_at_kept(block)

    def rewind(self, block: Block) -> Evaluation:
        """Move the state back to before `block`, which runs again on the way.

        Raises:
            ReversibilityError: something that the block depends on has changed.
        """
        self.position -= 1
        aside, self._aside = self._aside, None
        with torch.no_grad():
            self._next = update.rewind_position(self.state, aside)
        del aside
        evaluation = self._second_run(block, self.read_position)
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
        return evaluation

    def forget(self) -> None:
        """Step back over a block whose graph was kept."""
        self.position -= 1
        self._history.pop()

    def finish(self) -> Tensor:
        """Return the last position as floats; NaN all over if a deferred range check failed.

        Only a run that will be reversed keeps its state.
        """
        output = self.read_position()
        if self._backward != "reversible":
            self._state = None
        failed = None if is_simulated() else self._check.any_failed()
        return output if failed is None else output.masked_fill_(failed, float("nan"))

    def begin_backward(self) -> None:
        """Open the backward pass.

        Raises:
            StateRangeError: a deferred range check failed.
        """
        self.raise_if_out_of_range()

    def raise_if_out_of_range(self) -> None:
        """Raise for what a deferred range check found; buffers are then as before the pass."""
        if is_simulated():
            return
        with self._buffers_restored_if_out_of_range():
            self._check.raise_if_failed()

    def check_start(self) -> None:
        """Check the state before the first block, unless the initial velocity comes yet."""
        self._take_back_position()
        if self._backward == "reversible" and not self.has_initial_velocity:
            self.check_reversed()

    def check_reversed(self) -> None:
        """Raise unless the state is what the run started from and the store is empty.

        Raises:
            ReversibilityError: a block did not compute the same values the second time.
        """
        if is_simulated():
            return
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
        for keep_graph in (self._backward == "stored", True):
            x, position, leaves, call = self._prepare(block, self.read_position)
            version = version_of(x)
            with contextlib.suppress(GraphNeeded):
                output, circumstances = replay.first_run(
                    block.module,
                    call,
                    self._arguments.tensors,
                    self._device,
                    keep_graph=keep_graph,
                )
                break
        self._history.append(circumstances)
        check_output(output, self._shape, block.where)
        was_written = version_of(x) != version
        if self._backward == "recomputed":
            seen = self.read_position() if was_written else x.detach()
            self._kept.append(KeptPosition(seen, was_written, checksum(output)))
        evaluation = self._evaluate(
            block, output, x, position, leaves, self.read_position, was_written=was_written
        )
        if evaluation.root is not None:
            known = (*block.parameters, *leaves)
            root = evaluation.root.node
            check_captured(root, block.module, known, block.where, position=position)
        return evaluation

    def _run_at_kept(self, block: Block) -> Evaluation:
        kept = self._kept.pop()
        evaluation = self._second_run(block, kept.read)
        assert evaluation.output is not None
        if not is_simulated() and not torch.equal(checksum(evaluation.output), kept.checksum):
            raise ReversibilityError(
                f"{block.where}: its output is not that of the forward pass, so the gradients "
                "would be wrong: " + replay.NOT_THE_SAME_TWICE,
                code="not_deterministic",
            )
        evaluation.seen = None
        return evaluation

    def _set_aside_position(self, evaluation: Evaluation) -> None:
        """Drop the integer position while a block is differentiated, where its float says as much.

        The block's graph holds the float. On an accelerator reading the largest integer would wait
        for the device.
        """
        seen, evaluation.seen = evaluation.seen, None
        state = self.state
        if seen is None or device_kind(self._device) != "cpu" or seen.dtype != torch.float32:
            return
        most = update.EXACT_IN_FLOATS
        if is_simulated() or state.largest_bound_x <= most or _largest(state.x) <= most:
            self._aside = seen
            state.x = state.x.new_empty(0)

    def _take_back_position(self) -> None:
        aside, self._aside = self._aside, None
        if aside is not None:
            with torch.no_grad():
                update.take_back_position(self.state, aside)

    def _second_run(self, block: Block, read: Callable[[], Tensor]) -> Evaluation:
        circumstances = self._history.pop()
        replay.check_unchanged(circumstances, block.where)
        x, position, leaves, call = self._prepare(block, read)
        version = version_of(x)
        output = replay.second_run(circumstances, call, self._device)
        was_written = version_of(x) != version
        return self._evaluate(block, output, x, position, leaves, read, was_written=was_written)

    def _prepare(
        self, block: Block, read: Callable[[], Tensor]
    ) -> tuple[Tensor, GradientEdge | None, tuple[Tensor, ...], Callable[[], Any]]:
        with torch.enable_grad():
            if self.position or self._position_needs_grad:
                anchor = torch.empty((), requires_grad=True)
                x = ReadPosition.apply(read, anchor)
            else:
                x = read()
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
        read: Callable[[], Tensor],
        *,
        was_written: bool,
    ) -> Evaluation:
        inputs: tuple[GradientEdge | Tensor, ...] = (*block.parameters, *leaves)
        if position is not None:
            inputs = (position, *inputs)
        coefficient, _, predictor = block.trainable
        uses_position = predictor is not None or (
            coefficient is not None and block.rule.includes_skip
        )
        scaled = Handover()
        return Evaluation(
            block.where,
            output.detach(),
            scaled_root(output, block.rule.coefficient, self.dtype, scaled),
            inputs,
            position is not None,
            None if was_written else x.detach(),
            read() if uses_position else None,
            scaled,
        )

    def _encode_velocity(self, output: Tensor) -> Tensor:
        self._check.where = f"{self.name}, initial velocity"
        with torch.no_grad():
            floats = torch.empty_like(self.state.x, dtype=work_dtype(self.dtype)).copy_(output)
            scale = self.state.fixed_point.velocity_scale
            return encode(floats, scale, self._check, "its output")


def _largest(integers: Tensor) -> int:
    if not integers.numel():
        return 0
    low, high = integers.aminmax()
    return max(-int(low), int(high))
