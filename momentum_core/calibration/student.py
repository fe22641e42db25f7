"""The momentum model whose rules are being fitted, in plain floats that autograd can follow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from momentum_core.conversion import ConversionPlan, RunRule, convert
from momentum_core.conversion.stand_ins import ConvertedRun
from momentum_core.reversible.float_rule import run_floats
from momentum_core.reversible.rule import RuleTensors


class FloatRun(nn.Module):
    """Takes the place of a momentum stack: the same rule, its numbers open to autograd."""

    def __init__(self, blocks: nn.ModuleList, rule: RunRule) -> None:
        """Take a stack's blocks.

        Args:
            blocks: as the stack calls them.
            rule: what to start with.
        """
        super().__init__()
        self.blocks = blocks
        self.follow(rule)

    def follow(self, rule: RunRule, columns: Sequence[Tensor] | None = None) -> None:
        """Use a rule from now on, or its gamma with one to three of c, b, p of shape (N, C)."""
        self.gamma, self.channel_dim = float(rule.gamma), rule.channel_dim
        if columns is None:
            self.columns = rule.tensors()
            return
        flat = [column.squeeze(1) if column.shape[1] == 1 else column for column in columns]
        c, b, p = (*flat, None, None)[:3]
        assert c is not None
        self.columns = c, b, p

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Return the last position."""
        c, b, p = (one if one is None else one.to(x.device) for one in self.columns)
        tensors = RuleTensors(
            scheme=(1.0,) * len(self.blocks),
            coefficients=c,
            offsets=b,
            predictors=p,
            includes_skip=True,
            channel_dim=self.channel_dim,
        )
        rules = tensors.block_rules(x, detached=False)
        last, _ = run_floats(list(self.blocks), rules, self.gamma, x, None, args, kwargs)
        return last.to(x.dtype)


class Student:
    """A converted copy of the original, frozen, with `FloatRun` in place of each stack."""

    def __init__(self, original: nn.Module, plan: ConversionPlan) -> None:
        """Convert a copy of `original` by `plan`."""
        # Recomputation would cost time; without weights to train, little is kept for backward.
        plain = replace(plan, recomputed=(), strategies={})
        self.model = convert(original, plan=plain).eval()
        self.model.requires_grad_(requires_grad=False)
        self.runs = [self._replace_stack(run.name, run.rule) for run in plan.runs]

    def follow(self, rules: Sequence[RunRule]) -> None:
        """Use these rules from now on, one for each run."""
        for run, rule in zip(self.runs, rules, strict=True):
            run.follow(rule)

    def _replace_stack(self, name: str, rule: RunRule) -> FloatRun:
        stand_in = self.model.get_submodule(name)
        assert isinstance(stand_in, ConvertedRun)
        floats = FloatRun(stand_in.stack.blocks, rule)
        stand_in.add_module("stack", floats)
        return floats


def own_call(
    args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Tensor, tuple[Any, ...], dict[str, Any]]:
    """Take the input out of what a `FloatRun` is called with."""
    x = args[0]
    assert isinstance(x, torch.Tensor)
    return x, args[1:], kwargs
