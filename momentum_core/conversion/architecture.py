"""The plan of an architecture that can be named: found without weights and without computing."""

from __future__ import annotations

import torch

from momentum_core.architectures import build_without_memory, named_input_shape
from momentum_core.config import ConversionConfig
from momentum_core.conversion.plan import ConversionPlan, plan_conversion


def plan_architecture(
    name: str, *, num_classes: int, config: ConversionConfig | None = None
) -> ConversionPlan:
    """Plan the conversion of a network of this architecture.

    Args:
        name: as `build_named` takes it.
        num_classes: outputs of the last layer.
        config: gamma and scheme.

    Raises:
        ArchitectureError: `unknown_architecture`.
    """
    model = build_without_memory(name, num_classes=num_classes)
    return plan_conversion(model, torch.empty(2, *named_input_shape(name), device="meta"), config)
