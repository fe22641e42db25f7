"""The plan of an architecture that can be named: found without weights and without computing."""

from __future__ import annotations

import torch

from momentum_core.architectures import build
from momentum_core.checkpoint import input_shape
from momentum_core.config import ConversionConfig
from momentum_core.conversion.plan import ConversionPlan, plan_conversion


def plan_architecture(
    name: str, *, num_classes: int, config: ConversionConfig | None = None
) -> ConversionPlan:
    """Plan the conversion of a network of this architecture.

    Args:
        name: one of `momentum_core.checkpoint.ARCHITECTURES`.
        num_classes: outputs of the last layer.
        config: gamma and scheme.

    Raises:
        ArchitectureError: `unknown_architecture`.
    """
    channels, side = input_shape(name)
    with torch.device("meta"):
        return plan_conversion(
            build(name, num_classes=num_classes), torch.empty(2, channels, side, side), config
        )
