"""Run a stack forwards and get its input back: the inverse as a thing of its own."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from momentum_core.errors import ReversibilityError
from momentum_core.reversible.evaluation import Block
from momentum_core.reversible.passes import create_tape, initial_block
from momentum_core.reversible.prefix import Prefix
from momentum_core.reversible.run import Run, check_input
from momentum_core.reversible.tape import Tape


class MomentumState:
    """Where a run has arrived, with all it takes to go back to the start exactly."""

    def __init__(self, tape: Tape, blocks: tuple[Block, ...], initial: Block | None) -> None:
        self._tape = tape
        self._blocks = blocks
        self._initial = initial
        self._is_used_up = False

    @property
    def x(self) -> Tensor:
        """The position, as floats."""
        return self._tape.read_position()

    @property
    def v(self) -> Tensor:
        """The velocity, as floats."""
        state = self._tape.state
        return state.fixed_point.decode_velocity(state.v, state.dtype)

    def held_bytes(self) -> int:
        """Return the bytes that position, velocity and remainders hold."""
        return self._tape.state.held_bytes()


def advance_run(run: Run, x: Tensor) -> MomentumState:
    """Pass through the whole run on integers, without gradients.

    Raises:
        StateRangeError: a value does not fit the state.
    """
    check_input(x, run.name)
    run = replace(run, backward="reversible")
    tape, blocks = create_tape(run, Prefix(0, x.detach(), None))
    initial = initial_block(run) if tape.has_initial_velocity else None
    if initial is not None:
        tape.start(initial)
    for block in blocks:
        tape.advance(block)
    tape.raise_if_out_of_range()
    tape.let_go()
    return MomentumState(tape, blocks, initial)


def rewind_run(state: MomentumState) -> Tensor:
    """Return the position at the start of `state`'s run; `state` is used up.

    Raises:
        ReversibilityError: it was used up before, or a block did not compute the same again.
    """
    tape = state._tape
    if state._is_used_up:
        raise ReversibilityError(
            f"{tape.name}: this state was rewound before, so it is used up; advance again to get "
            "another one",
            code="second_backward",
        )
    state._is_used_up = True
    tape.begin_backward()
    for block in reversed(state._blocks):
        tape.rewind(block)
    if state._initial is None:
        tape.check_reversed()
    else:
        tape.restart(state._initial)
    with torch.no_grad():
        return tape.read_position()
