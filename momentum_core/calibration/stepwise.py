"""A run's rule by least squares, block after block: no gradient, one pass over a few batches.

Let `S[i] = (gamma + gamma^2 + ... + gamma^(N-i))`, the distance that a velocity of 1 still goes
from x[i] when no block adds anything any more. Block i's c, b and p are those that bring

    x[i+1] + lead * S[i+1] * v[i+1]

nearest to the original's position after block i, channel by channel, with x and v as the blocks
before it have left them. With lead 1 a run heads for the original's end, with lead 0 it is held to
the original's path and swings around it. (The scheme `compensated` is the solution for lead 1 if
every f sees what it sees in the original.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from momentum_core.calibration.numbers import RunNumbers
from momentum_core.calibration.watch import RunCall
from momentum_core.config import RuleForm
from momentum_core.conversion import RunRule

_RIDGE = 1e-3
"""Pull towards the scheme's rule: a share of each term's own mean square."""

_NUM_TERMS: dict[RuleForm, int] = {"scalar": 1, "channel": 1, "offset": 2, "predictor": 3}


@dataclass(slots=True)
class _Stream:
    """One batch on its way through the run, in the original and by the rule."""

    ours: RunCall
    theirs: RunCall
    x: Tensor
    v: Tensor
    goal: Tensor
    """The original's position."""

    f: Tensor
    """Of the block that was called last, at x."""


@dataclass(frozen=True, slots=True)
class _Equations:
    """The normal equations of one block and batch."""

    gram: Tensor
    """Products of the terms f, 1 and x, shape (C, terms, terms)."""

    right: Tensor
    """Products with what is missing, shape (C, terms, 1)."""

    mean_squares: Tensor
    """Of f and of x, over everything, shape (2,)."""


@torch.no_grad()
def fit_stepwise(
    blocks: Sequence[nn.Module],
    scheme: RunRule,
    calls: Sequence[tuple[RunCall, RunCall]],
    *,
    form: RuleForm,
    lead: float,
) -> RunNumbers:
    """Return c, b and p of a run's N blocks.

    Args:
        blocks: the run's, as a stack calls them.
        scheme: the rule without calibration; its `channel_dim` is that of the result.
        calls: for each batch, what the run is called with in the momentum model and in the
            original.
        form: what is fitted.
        lead: how far ahead the run looks, 0 to 1.
    """
    gamma, num_terms = float(scheme.gamma), _NUM_TERMS[form]
    channel_dim = None if form == "scalar" else scheme.channel_dim
    streams = [_start(ours, theirs) for ours, theirs in calls]
    solutions, mean_squares = [], []
    for i, (block, c) in enumerate(zip(blocks, scheme.coefficients, strict=True)):
        assert isinstance(c, float)
        coasting = gamma * (1 - gamma ** (len(blocks) - i - 1)) / (1 - gamma)
        parts = []
        for stream in streams:
            stream.goal = _output(block, stream.goal, stream.theirs)
            stream.f = _output(block, stream.x, stream.ours) - stream.x
            missing = (stream.goal - stream.x) / (1 + lead * coasting) - gamma * stream.v
            parts.append(_equations(stream, missing - c * stream.f, num_terms, channel_dim))
        solved = _solve(parts)
        solved[:, 0] += c
        solutions.append(solved)
        mean_squares.append(torch.stack([part.mean_squares for part in parts]).mean(dim=0))
        for stream in streams:
            _step(stream, solved, gamma, channel_dim)
    return RunNumbers.of(solutions, scheme, torch.stack(mean_squares).sqrt().float())


def _start(ours: RunCall, theirs: RunCall) -> _Stream:
    x = ours.x.float()
    zero = torch.zeros_like(x)
    return _Stream(ours, theirs, x, zero, theirs.x.float(), zero)


def _equations(
    stream: _Stream, missing: Tensor, num_terms: int, channel_dim: int | None
) -> _Equations:
    terms = (stream.f, torch.ones_like(stream.f), stream.x)
    columns = torch.stack([_rows(term, channel_dim) for term in terms])
    rows = columns.transpose(0, 1)[:, :num_terms]
    return _Equations(
        (rows @ rows.transpose(1, 2)).double(),
        (rows @ _rows(missing, channel_dim).unsqueeze(2)).double(),
        columns[[0, 2]].double().square().mean(dim=(1, 2)),
    )


def _solve(parts: Sequence[_Equations]) -> Tensor:
    """Return the solution of all batches together, shape (C, terms)."""
    gram = torch.stack([part.gram for part in parts]).sum(dim=0)
    right = torch.stack([part.right for part in parts]).sum(dim=0)
    diagonal = gram.diagonal(dim1=1, dim2=2)
    # The second and third summand keep channels that are always 0 from dividing by 0.
    ridge = torch.diag_embed(_RIDGE * diagonal + 1e-9 * diagonal.mean(dim=0) + 1e-30)
    solution: Tensor = torch.linalg.solve(gram + ridge, right)
    return solution.squeeze(2).float()


def _output(block: nn.Module, x: Tensor, call: RunCall) -> Tensor:
    """Call a block on a copy, in case it works in place."""
    output: Tensor = block(x.to(call.x.dtype, copy=True), *call.args, **call.kwargs)
    return output.float()


def _rows(values: Tensor, channel_dim: int | None) -> Tensor:
    """Return a row for each channel, or one for all."""
    if channel_dim is None:
        return values.reshape(1, -1)
    return values.movedim(channel_dim, 0).reshape(values.shape[channel_dim], -1)


def _step(stream: _Stream, solved: Tensor, gamma: float, channel_dim: int | None) -> None:
    shape = [1] * stream.x.dim()
    if channel_dim is not None:
        shape[channel_dim] = -1
    terms = (stream.f, None, stream.x)
    stream.v = gamma * stream.v
    for column, term in zip(solved.unbind(1), terms, strict=False):
        number = column.view(shape)
        stream.v += number if term is None else number * term
    stream.x = stream.x + stream.v
