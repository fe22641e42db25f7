"""Which dimension of a run's positions its channels are, told by the layers inside its blocks."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from momentum_core.conversion import PlannedRun


def channel_dim_of(run: PlannedRun, blocks: Iterable[nn.Module]) -> int | None:
    """Return 1 for maps (N, C, ...), -1 for tokens (..., C), None where it cannot be told.

    Convolutions and batch norms of the position's width speak for 1, linear layers and layer norms
    for -1; both or neither of them leave it open, and numbers per channel must then not be used.

    Args:
        run: whose example shape counts.
        blocks: its blocks in the original model.
    """
    if len(run.shape) < 2:
        return None
    found: set[int] = set()
    for module in (module for block in blocks for module in block.modules()):
        if isinstance(module, _ConvNd):
            # A convolution over (N, C, positions) has a weight with one dimension per dimension.
            is_fitting = module.weight.dim() == len(run.shape)
            if is_fitting and run.shape[1] in (module.in_channels, module.out_channels):
                found.add(1)
        elif isinstance(module, _BatchNorm | nn.GroupNorm):
            width = module.num_features if isinstance(module, _BatchNorm) else module.num_channels
            if width == run.shape[1]:
                found.add(1)
        elif isinstance(module, nn.Linear):
            if run.shape[-1] in (module.in_features, module.out_features):
                found.add(-1)
        elif isinstance(module, nn.LayerNorm) and module.normalized_shape == (run.shape[-1],):
            found.add(-1)
    if len(run.shape) == 2:
        return -1 if found else None
    return found.pop() if len(found) == 1 else None
