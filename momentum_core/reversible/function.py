"""Autograd nodes of a momentum stack: one for each block, so that gradients flow out as they come.

Between the nodes flow carriers, tensors of the right shape without storage; the values themselves
live on the tape. The second carrier stands for w = gamma * v: its gradient is the very sum that
the block before needs, with no scaling in between. With g_x', g_w' the gradients after one step:

    g = g_x' + gamma * g_w'        g_f = c * g        g_w = g        g_x = g_x' + J_f^T g_f + p * g

and of the rule's own tensors: g_c = <g, f>, g_b = <g, 1>, g_p = <g, x>.
"""

# ruff: noqa: ARG004 - autograd fixes the arguments of `forward` and `backward`.
from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from momentum_core.errors import ReversibilityError
from momentum_core.reversible import fused
from momentum_core.reversible.evaluation import Block, Evaluation
from momentum_core.reversible.fixed_point import work_dtype
from momentum_core.reversible.increment import BlockRule
from momentum_core.reversible.pull_back import Gradients, carrier, pull_back
from momentum_core.reversible.tape import Tape


@dataclass(slots=True)
class Step:
    """What a block's node needs in its backward pass."""

    tape: Tape
    block: Block
    evaluation: Evaluation | None = field(default=None, init=False)


class EnterRun(torch.autograd.Function):
    """The run's input; its backward pass is the last to be called."""

    @staticmethod
    def forward(ctx: Any, tape: Tape, x: Tensor) -> Tensor:
        """Return the carrier of the position."""
        ctx.set_materialize_grads(False)
        return carrier(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> Any:
        """Pass the gradient of the position on."""
        return None, gradients[0]


class PassBlock(torch.autograd.Function):
    """One block of the run."""

    @staticmethod
    def forward(ctx: Any, step: Step, x: Tensor, w: Tensor, *tensors: Tensor) -> Any:
        """Advance the tape past the block; return the carriers of x and w.

        Args:
            ctx: autograd's context.
            step: the block and its tape.
            x: carrier of the position.
            w: carrier of gamma times the velocity.
            *tensors: the rule's tensors, the block's parameters, the run's arguments: all that
                need a gradient.
        """
        ctx.set_materialize_grads(False)
        ctx.step = step
        step.evaluation = step.tape.advance(step.block)
        return carrier(x), carrier(w)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> Any:
        """Rewind the tape to before the block; return the gradients of `forward`'s tensors."""
        step = _take_step(ctx)
        grad_x, grad_w = gradients
        tape, block, rule = step.tape, step.block, step.block.rule
        if grad_x is None:
            # Nothing behind this run depends on it: then nothing before it does either.
            return (None,) * len(ctx.needs_input_grad)
        evaluation = step.evaluation or tape.recompute(block)
        if step.evaluation is not None:
            tape.forget()
            step.evaluation = None
        # Gradients from within the run are ours to overwrite; the first comes from outside, and
        # is copied as late as can be: the block's activations are freed by then.
        is_ours = grad_w is not None
        needs_x, needs_w = ctx.needs_input_grad[1:3]
        total = grad_x if grad_w is None else grad_w
        is_trained = block.trainable != (None, None, None)
        if grad_w is not None and is_trained:
            _add_velocity(grad_x, grad_w, tape.gamma)
        grads_rule = _rule_gradients(step, evaluation, total)
        evaluation.output = None
        if grad_w is not None and is_trained:
            # Not before: what the rule's gradients took is free by now.
            evaluation.scaled.gradient = _take_skip(grad_x, grad_w, rule, wanted=needs_x)
        elif grad_w is not None:
            evaluation.scaled.gradient = mix(
                grad_x, grad_w, tape.gamma, rule, takes_skip=needs_x, compiled=tape.fused
            )
        if is_ours and needs_x and rule.predictor is not None:
            grad_x.add_(total * rule.predictor)
        inner = pull_back(evaluation, total)
        evaluation.scaled.take()  # a block without a gradient has not
        grad_position = inner.pop(0) if evaluation.with_position else None
        if not needs_x:
            grad_x = None
        else:
            if not is_ours:
                grad_x = grad_x.clone()
                _take_direct_part(grad_x, total, rule)
            if grad_position is not None:
                grad_x.add_(grad_position)
        if tape.position == 0:
            tape.check_start()
        grad_w = (total if is_ours else total.clone()) if needs_w else None
        return None, grad_x, grad_w, *grads_rule, *inner


def mix(
    grad_x: Tensor,
    grad_w: Tensor,
    gamma: float,
    rule: BlockRule,
    *,
    takes_skip: bool,
    compiled: bool | None = None,
) -> Tensor | None:
    """Put what reaches a block together, in place.

    Args:
        grad_x: gradient of the position after the block; loses c * g, what reaches the position
            past a block that includes the skip.
        grad_w: that of gamma times the velocity; becomes g = grad_x + gamma * grad_w.
        gamma: of the run.
        rule: of the block.
        takes_skip: whether anybody wants `grad_x`.
        compiled: as `MomentumStack.fused`.

    Returns:
        c * g, or None where it is g.
    """
    coefficient = rule.coefficient
    is_plain = not isinstance(coefficient, Tensor) and coefficient != 1.0
    if (
        is_plain
        and _share_memory_order(grad_x, grad_w)
        and fused.compiler.wants(grad_w, fused=compiled)
    ):
        scaled = torch.empty_like(grad_w)
        done = fused.compiler.call(
            fused.mix_gradients,
            fused.in_memory_order(grad_x),
            fused.in_memory_order(grad_w),
            fused.in_memory_order(scaled),
            torch.tensor(gamma, dtype=grad_w.dtype),
            torch.tensor(coefficient, dtype=grad_w.dtype),
            takes_skip and rule.includes_skip,
            fused=compiled,
        )
        if done is not None:
            return scaled
    _add_velocity(grad_x, grad_w, gamma)
    return _take_skip(grad_x, grad_w, rule, wanted=takes_skip)


def _add_velocity(grad_x: Tensor, grad_w: Tensor, gamma: float) -> None:
    """Let `grad_w` become grad_x + gamma * grad_w."""
    # In two steps, as compiled code does: `add(alpha=...)` rounds once.
    grad_w.mul_(gamma).add_(grad_x)


def _take_skip(grad_x: Tensor, total: Tensor, rule: BlockRule, *, wanted: bool) -> Tensor | None:
    """Take c * g off `grad_x` if a block includes the skip; return it, or None where it is g."""
    coefficient = rule.coefficient
    has_factor = isinstance(coefficient, Tensor) or coefficient != 1.0
    scaled = total * coefficient if has_factor else total
    if wanted and rule.includes_skip:
        grad_x.sub_(scaled)
    return scaled if has_factor else None


def _share_memory_order(a: Tensor, b: Tensor) -> bool:
    """Whether compiled code may take both as rows of numbers, and rounds as operations do."""
    if a.dtype != b.dtype or a.dtype not in (torch.float32, torch.float64):
        return False
    if a.stride() != b.stride():
        return False
    is_last = a.dim() == 4 and a.is_contiguous(memory_format=torch.channels_last)
    return is_last or a.is_contiguous()


def _take_direct_part(grad_x: Tensor, total: Tensor, rule: BlockRule) -> None:
    """Add what reaches the position past the block: -c * g for the skip, p * g; in place."""
    coefficient = rule.coefficient
    if rule.includes_skip and isinstance(coefficient, Tensor):
        grad_x.sub_(total * coefficient)
    elif rule.includes_skip:
        assert not isinstance(coefficient, Tensor)
        grad_x.sub_(total, alpha=coefficient)
    if rule.predictor is not None:
        grad_x.add_(total * rule.predictor)


class InitialVelocity(torch.autograd.Function):
    """The learned initial velocity v[0] = g(x[0]), recomputed like a block."""

    @staticmethod
    def forward(ctx: Any, step: Step, x: Tensor, *tensors: Tensor) -> Any:
        """Set the tape's velocity; return the carriers of x and w."""
        ctx.set_materialize_grads(False)
        ctx.step = step
        step.evaluation = step.tape.start(step.block)
        return carrier(x), carrier(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> Any:
        """Recompute g, check that it gives the reconstructed velocity, differentiate it."""
        step = _take_step(ctx)
        grad_x, grad_w = gradients
        evaluation = step.evaluation or step.tape.restart(step.block)
        step.evaluation = None
        if grad_w is None:
            return None, grad_x, *(None,) * (len(ctx.needs_input_grad) - 2)
        inner = pull_back(evaluation, grad_w)
        grad_position = inner.pop(0) if evaluation.with_position else None
        if grad_x is not None and grad_position is not None:
            grad_x.add_(grad_position)
        return None, grad_x if ctx.needs_input_grad[1] else None, *inner


class LeaveRun(torch.autograd.Function):
    """The run's output; its backward pass is the first to be called."""

    @staticmethod
    def forward(ctx: Any, tape: Tape, x: Tensor) -> Tensor:
        """Return the last position as floats; NaN all over if a deferred range check failed."""
        ctx.set_materialize_grads(False)
        ctx.tape, ctx.name = tape, tape.name
        return tape.finish()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> Any:
        """Open the backward pass, which may happen once."""
        refuse_double_backward(ctx.name)
        # The loss holds this node, often into the next step: the state must not live as long.
        tape, ctx.tape = ctx.tape, None
        if tape is None:
            raise used_up(ctx.name)
        tape.begin_backward()
        return None, gradients[0]


def used_up(name: str) -> ReversibilityError:
    """Make the error for a second backward pass; `name` names the run."""
    return ReversibilityError(
        f"{name}: its state was rewound by an earlier backward pass and is gone; run the forward "
        "pass again before a second backward (retain_graph cannot help)",
        code="second_backward",
    )


def refuse_double_backward(name: str) -> None:
    """Raise if the backward pass that is running is to be differentiated itself.

    Raises:
        ReversibilityError: it is; `name` names the run.
    """
    if torch.is_grad_enabled():
        raise ReversibilityError(
            f"{name}: create_graph=True asks for a gradient of the gradient, which a recomputed "
            "graph does not have; build the model without MomentumStack and Recomputed for that, "
            "or drop create_graph",
            code="double_backward",
        )


def _take_step(ctx: Any) -> Step:
    step: Step = ctx.step
    ctx.step = None
    return step


def _rule_gradients(step: Step, evaluation: Evaluation, total: Tensor) -> Gradients:
    """Return the gradients of the rule's trainable tensors, in the order c, b, p."""
    block, tape = step.block, step.tape
    trainable = block.trainable
    if trainable == (None, None, None):
        return []
    work = work_dtype(tape.dtype)
    weights = total.to(work)
    seen = evaluation.position
    result: Gradients = []
    coefficient, offset, predictor = trainable
    if coefficient is not None:
        assert evaluation.output is not None
        f = evaluation.output.to(work)
        if block.rule.includes_skip:
            assert seen is not None
            f = f - seen.to(work)
        result.append(_summed(weights * f, coefficient))
    if offset is not None:
        grad_offset = _summed(weights, offset)
        # With nothing to sum over it is `total` itself, which the block before overwrites.
        is_total = grad_offset.data_ptr() == total.data_ptr()
        result.append(grad_offset.clone() if is_total else grad_offset)
    if predictor is not None:
        assert seen is not None
        result.append(_summed(weights * seen.to(work), predictor))
    return result


def _summed(values: Tensor, like: Tensor) -> Tensor:
    return values.sum_to_size(like.shape).to(like.dtype)
