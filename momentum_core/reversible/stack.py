"""`MomentumStack`: a run of blocks as one module that trains without keeping activations."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from fractions import Fraction
from typing import Any, Self, cast, get_args

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from momentum_core.config import Scheme
from momentum_core.errors import ConfigError
from momentum_core.gamma import round_gamma
from momentum_core.reversible import fixed_point as fixed
from momentum_core.reversible.arguments import Arguments
from momentum_core.reversible.float_rule import rewind_floats, run_floats
from momentum_core.reversible.increment import BlockRule
from momentum_core.reversible.inverse import MomentumState, advance_run, rewind_run
from momentum_core.reversible.passes import run_with_gradients
from momentum_core.reversible.rule import RuleTensors
from momentum_core.reversible.run import Backward, Run
from momentum_core.reversible.scheme import scheme_coefficients
from momentum_core.reversible.store_plan import plan_store
from momentum_core.reversible.switches import is_exporting


class MomentumStack(nn.Module):
    """Apply residual blocks by the momentum rule; reverse it exactly in the backward pass.

        v[i+1] = gamma * v[i] + c[i] * f_i(x[i]) + b[i] + p[i] * x[i]
        x[i+1] = x[i] + v[i+1]                                          v[0] = 0

    Where gradients are enabled, position and velocity are integers that can be rewound bit for
    bit, so the backward pass recomputes every activation from the last one. Elsewhere (`no_grad`,
    inference mode, export, tracing) the same rule runs in floats; the two differ by about
    `expected_noise`. Forward hooks inside the blocks run twice in a training step.

    State-dict keys are `blocks.<i>.<key>`, `initial_velocity.<key>`, and `coefficients`, `offsets`,
    `predictors` where those were given or are trainable.

    Source: Sander et al. 2021, Momentum Residual Neural Networks (arXiv:2102.07870); the exact
    reversal is derived in this folder's README.
    """

    def __init__(
        self,
        blocks: Iterable[nn.Module],
        *,
        gamma: float | Fraction = 0.5,
        scheme: Scheme = "compensated",
        backward: Backward = "reversible",
        skip: bool = True,
        coefficients: Tensor | None = None,
        offsets: Tensor | None = None,
        predictors: Tensor | None = None,
        trainable_rule: bool = False,
        channel_dim: int = 1,
        initial_velocity: nn.Module | None = None,
        state_bits: int = 32,
        scale_bits: int | None = None,
        activation_range: float | None = None,
        fused: bool | None = None,
        name: str = "momentum stack",
    ) -> None:
        """Build the stack.

        Args:
            blocks: modules that keep their input's shape and return one float tensor. The same
                module may appear more than once (tied weights).
            gamma: momentum term in (0, 1), rounded to a fraction; see the attribute `gamma`.
            scheme: which coefficients c to use if none are given.
            backward: `reversible` recomputes activations from the last state; `recomputed` keeps
                every block's input and recomputes the rest; `stored` keeps every block's graph.
                Same forward, same gradients bit for bit; the memory of the last two grows with
                depth.
            skip: blocks return x + f(x); with False they return f(x).
            coefficients: c, shape (N,), or (N, C) for one number per channel.
            offsets: b, likewise.
            predictors: p, likewise.
            trainable_rule: c, and b and p where given, are parameters that need a gradient.
            channel_dim: dimension of x that numbers per channel belong to.
            initial_velocity: learned g with v[0] = g(x[0]), in place of v[0] = 0.
            state_bits: width of the integers, 32 or 16.
            scale_bits: their binary places; by default chosen from depth, gamma and range.
            activation_range: largest magnitude of any position, if known.
            fused: whether the rule's arithmetic is compiled into one pass over memory. None does so
                once a process has spent as long on it as the compiler needs (about ten seconds),
                if there is a compiler; the results are the same bits.
            name: the run's name in messages.

        Raises:
            ConfigError: an option has a value that it cannot have.
            ReversibilityError: the noise of the integers would exceed its tolerance.
        """
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        if not self.blocks:
            raise ConfigError("a momentum stack needs at least one block, got none")
        if backward not in get_args(Backward):
            names = ", ".join(map(repr, get_args(Backward)))
            raise ConfigError(f"backward must be one of {names}, got {backward!r}")
        num_blocks = len(self.blocks)
        self.gamma = round_gamma(gamma)
        """The momentum term itself, a fraction n/d: forward and backward use no other value."""

        self.scheme = scheme
        self.backward_mode: Backward = backward
        self.skip = skip
        self.channel_dim = channel_dim
        self.fused = fused
        self.name = name
        self.initial_velocity = initial_velocity
        self._scheme_coefficients = scheme_coefficients(scheme, self.gamma, num_blocks)
        if coefficients is None and trainable_rule:
            coefficients = torch.tensor(self._scheme_coefficients)
        self.coefficients = _rule_parameter("coefficients", coefficients, self, trainable_rule)
        self.offsets = _rule_parameter("offsets", offsets, self, trainable_rule)
        self.predictors = _rule_parameter("predictors", predictors, self, trainable_rule)
        self._num_pushes = num_blocks if initial_velocity is not None else num_blocks - 1
        self._state_options = (state_bits, scale_bits, activation_range)
        self.fixed_point = self._choose_fixed_point()
        """Width and scale of the integer state."""

    def set_gamma(self, gamma: float | Fraction) -> None:
        """Use another momentum term from the next forward pass on; the width of the state stays.

        Coefficients of the scheme follow; those that were given stay as they are. The scale of the
        state is chosen anew. What was computed before is still reversed by the term that it had.

        Args:
            gamma: as for the stack itself.

        Raises:
            ConfigError: it is not in (0, 1).
        """
        self.gamma = round_gamma(gamma)
        self._scheme_coefficients = scheme_coefficients(self.scheme, self.gamma, len(self.blocks))
        self.fixed_point = self._choose_fixed_point()

    def _choose_fixed_point(self) -> fixed.FixedPoint:
        state_bits, scale_bits, activation_range = self._state_options
        return fixed.choose_fixed_point(
            plan_store(self.gamma, self._num_pushes),
            len(self.blocks),
            state_bits=state_bits,
            scale_bits=scale_bits,
            activation_range=activation_range,
        )

    @property
    def expected_noise(self) -> float:
        """Root mean square error of the output that the integers bring, in activation units."""
        plan = plan_store(self.gamma, self._num_pushes)
        return fixed.expected_noise(plan, len(self.blocks), self.fixed_point)

    def lower_precision(self, bits: int = 1) -> None:
        """Double every range of the state `bits` times, at the price of as much noise.

        Raises:
            ReversibilityError: the noise would exceed its tolerance.
        """
        plan = plan_store(self.gamma, self._num_pushes)
        self.fixed_point = fixed.coarser(plan, len(self.blocks), self.fixed_point, bits)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Return the last position, of the shape and dtype of `x`.

        Args:
            x: first position, any shape, a float tensor.
            *args: passed on to every block, with gradients where they need them.
            **kwargs: likewise.

        Raises:
            StateRangeError: an activation is NaN or does not fit the integer state.
            ReversibilityError: the blocks cannot be reversed exactly as they are used here.
        """
        if not torch.is_grad_enabled() or is_exporting():
            return self.forward_floats(x, *args, **kwargs)[0].to(x.dtype)
        return cast(Tensor, self._forward_with_gradients(x, args, kwargs))

    def forward_floats(self, x: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Return the last position and velocity by the rule in plain floats.

        Autograd can differentiate through it in the ordinary way, keeping every activation.
        """
        v = None if self.initial_velocity is None else self.initial_velocity(x, *args, **kwargs)
        rules = self._rule_tensors().block_rules(x, detached=False)
        return run_floats(list(self.blocks), rules, float(self.gamma), x, v, args, kwargs)

    def rewind_floats(
        self, x: Tensor, v: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Return the first position and velocity from the last ones, approximately.

        The error grows like gamma^-N; see `float_rule.rewind_floats`. Exact: `advance`, `rewind`.
        """
        rules = self._rule_tensors().block_rules(x, detached=False)
        return rewind_floats(list(self.blocks), rules, float(self.gamma), x, v, args, kwargs)

    def advance(self, x: Tensor, *args: Any, **kwargs: Any) -> MomentumState:
        """Run the stack without gradients; return a state that `rewind` can undo exactly.

        Raises:
            StateRangeError: an activation is NaN or does not fit the integer state.
        """
        # Inference tensors could not be written to after inference mode, nor keep a graph.
        with torch.inference_mode(False):
            args, kwargs = tree_map_only(Tensor, _without_inference, (args, kwargs))
            return advance_run(self._run(x, args, kwargs), x)

    def rewind(self, state: MomentumState) -> Tensor:
        """Return the position that `advance` started from, rounded to the state's scale.

        Exact: the integers are those of the start, bit for bit. The state is used up.

        Raises:
            ReversibilityError: the state was used up before, or something changed since.
        """
        with torch.inference_mode(False):
            return rewind_run(state)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move and convert everything, but keep c, b and p at single precision at least.

        In half precision c would be off by up to 0.4 %, in every block the same way.
        """
        own = [parameter for parameter in self._parameters.values() if parameter is not None]
        own_ids = {id(tensor) for p in own for tensor in (p, p.grad) if tensor is not None}

        def convert(tensor: Tensor) -> Tensor:
            result = fn(tensor)
            if id(tensor) in own_ids and result.dtype in (torch.float16, torch.bfloat16):
                return tensor.to(result.device, torch.float32)
            return result

        return super()._apply(convert, recurse)  # type: ignore[no-any-return, no-untyped-call]

    def extra_repr(self) -> str:
        """Describe the options that are not modules."""
        point = self.fixed_point
        return (
            f"gamma={self.gamma}, scheme={self.scheme!r}, backward={self.backward_mode!r}, "
            f"skip={self.skip}, state_bits={point.state_bits}, scale_bits={point.scale_bits}"
        )

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _forward_with_gradients(
        self, x: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Tensor:
        return run_with_gradients(self._run(x, args, kwargs), x)

    def _run(self, x: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Run:
        tensors = self._rule_tensors()
        return Run(
            name=self.name,
            modules=tuple(self.blocks),
            initial_velocity=self.initial_velocity,
            gamma=self.gamma,
            rules=tensors.block_rules(x, detached=True),
            trainable=tensors.trainable(x),
            fixed_point=self.fixed_point,
            arguments=Arguments(args, kwargs),
            backward=self.backward_mode,
            fused=self.fused,
        )

    def _rule_tensors(self) -> RuleTensors:
        return RuleTensors(
            scheme=self._scheme_coefficients,
            coefficients=self.coefficients,
            offsets=self.offsets,
            predictors=self.predictors,
            includes_skip=self.skip,
            channel_dim=self.channel_dim,
        )


def _without_inference(tensor: Tensor) -> Tensor:
    return tensor.clone() if tensor.is_inference() else tensor


def _rule_parameter(
    name: str, values: Tensor | None, stack: MomentumStack, trainable: bool
) -> nn.Parameter | None:
    if values is None:
        return None
    num_blocks = len(stack.blocks)
    if values.dim() not in (1, 2) or values.shape[0] != num_blocks:
        raise ConfigError(
            f"{name} must have shape ({num_blocks},) or ({num_blocks}, channels), "
            f"got {tuple(values.shape)}"
        )
    return nn.Parameter(values.detach().clone().float(), requires_grad=trainable)


__all__ = ["BlockRule", "MomentumStack"]
