"""From an architecture's name to a module; names and shapes stand in `checkpoint.signatures`."""

from __future__ import annotations

from typing import cast

from torch import nn

from momentum_core.architectures.small_resnet import SmallResNet
from momentum_core.checkpoint.signatures import small_resnet_form


def build(name: str, *, num_classes: int) -> nn.Module:
    """Return the architecture `name`, in training mode, with random weights.

    Args:
        name: one of `momentum_core.checkpoint.ARCHITECTURES`.
        num_classes: outputs of the last layer.

    Raises:
        ArchitectureError: `unknown_architecture`.
    """
    form = small_resnet_form(name)
    if form is not None:
        return SmallResNet(
            form.depth, in_channels=form.in_channels, widths=form.widths, num_classes=num_classes
        )
    # Costs as much as torch itself: a worker's child is ready in half the time without it.
    from torchvision import models

    return cast(nn.Module, models.get_model(name, weights=None, num_classes=num_classes))
