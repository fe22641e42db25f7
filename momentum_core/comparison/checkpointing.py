"""The network with gradient checkpointing in place of reversal: the honest rival."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from momentum_core.conversion import CalledBlock, CallPattern, ConversionPlan, PassThrough
from momentum_core.errors import ConfigError

Cut = Literal["each_block", "sqrt"]
"""A checkpoint around each block, or around about sqrt(n) segments of the n blocks of a stage."""


def checkpointed(model: nn.Module, plan: ConversionPlan, cut: Cut) -> nn.Module:
    """Return a copy of `model` that keeps the inputs of segments and computes the rest again.

    Checkpointed are the blocks of the plan's runs, and what the plan could recompute besides (stem,
    transitions). The copy shares parameters and buffers with `model`.

    Args:
        model: the original network.
        plan: where its blocks are.
        cut: where the checkpoints are laid.

    Raises:
        ConfigError: there is no such cut.

    Source: Chen et al. 2016, Training Deep Nets with Sublinear Memory Cost (arXiv:1604.06174).
    """
    if cut not in get_args(Cut):
        raise ConfigError(f"cut must be one of {', '.join(get_args(Cut))}, got {cut!r}")
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    copied = copy.deepcopy(model, cast(dict[int, Any], shared))
    for stage in stages(model, plan):
        num = len(stage.chains) if cut == "each_block" else round(math.sqrt(len(stage.chains)))
        for segment in _cut(stage.chains, num):
            _place(copied, [name for chain in segment for name in chain], stage.pattern)
    return copied


@dataclass(frozen=True, slots=True)
class Stage:
    """Blocks that hand their output to each other; each a chain of modules."""

    chains: tuple[tuple[str, ...], ...]
    pattern: CallPattern


def stages(model: nn.Module, plan: ConversionPlan) -> list[Stage]:
    """Return the network in stages: a run with the transition before it, or a chain by itself.

    Stages are cut each by itself: segments across shapes hold more (184 MiB in place of 116 for
    ResNet-50 at 160 px).
    """
    chains = {chain[0]: chain for chain in plan.segments}
    found = []
    for run in plan.runs:
        blocks: tuple[tuple[str, ...], ...] = tuple((name,) for name in run.blocks)
        before = _before(model, run.name)
        if run.pattern.is_plain and before in chains and len(chains[before]) == 1:
            blocks = (chains.pop(before), *blocks)
        found.append(Stage(blocks, run.pattern))
    return found + [Stage((chain,), CallPattern.plain()) for chain in chains.values()]


def _before(model: nn.Module, name: str) -> str:
    """Return the name of the module before this one in a sequence, "" if there is none."""
    parent, _, child = name.rpartition(".")
    siblings: Mapping[str, nn.Module] = model.get_submodule(parent)._modules  # type: ignore[assignment]
    order = list(siblings)
    at = order.index(child)
    is_sequence = isinstance(model.get_submodule(parent), nn.Sequential)
    return f"{parent}.{order[at - 1]}".lstrip(".") if is_sequence and at else ""


class CheckpointedSegment(nn.Module):
    """Stands where a segment's first module stood, and does the work of all of them."""

    def __init__(self, modules: Sequence[nn.Module], pattern: CallPattern) -> None:
        """Wrap modules that are called alike."""
        super().__init__()
        self.pattern = pattern
        self.inner = nn.ModuleList(
            modules if pattern.is_plain else [CalledBlock(one, pattern) for one in modules]
        )

    @property
    def original_blocks(self) -> list[nn.Module]:
        """The modules as they were in the original model."""
        return [one.block if isinstance(one, CalledBlock) else one for one in self.inner]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return what the last module would."""
        x, rest, named = self.pattern.take(args, kwargs)
        y = checkpoint(self._run, x, *rest, use_reentrant=False, **named)
        return self.pattern.give(y, args, kwargs)

    def _run(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        for module in self.inner:
            x = module(x, *args, **kwargs)
        return x

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "inner":
                raise
            return getattr(self.original_blocks[0], name)


def _cut(
    chains: Sequence[tuple[str, ...]], num_segments: int
) -> Iterator[Sequence[tuple[str, ...]]]:
    for at in range(num_segments):
        yield chains[len(chains) * at // num_segments : len(chains) * (at + 1) // num_segments]


def _place(model: nn.Module, names: Sequence[str], pattern: CallPattern) -> None:
    modules = [model.get_submodule(name) for name in names]
    segment = CheckpointedSegment(modules, pattern).train(modules[0].training)
    stand_ins = [segment, *(PassThrough(module, pattern) for module in modules[1:])]
    for name, stand_in in zip(names, stand_ins, strict=True):
        model.set_submodule(name, stand_in, strict=True)
