"""A training as a value: what is called, in this process or in several at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from momentum_core.config import FinetuningConfig, Preprocessing, RefinementConfig
from momentum_core.refinement import (
    Checkpoints,
    Finetuning,
    Refinement,
    StepProgress,
    TrainingImages,
    finetune,
    refine,
)

OnPreparing = Callable[[str], None]


@dataclass(kw_only=True, slots=True)
class _Call:
    """What all trainings are given."""

    momentum: nn.Module
    original: nn.Module
    data: TrainingImages
    preprocessing: Preprocessing
    test_images: NDArray[np.uint8]
    seed: int

    def to(self, device: torch.device) -> None:
        """Move the networks."""
        self.momentum.to(device)
        self.original.to(device)


@dataclass(kw_only=True, slots=True)
class RefineCall(_Call):
    """The arguments of `momentum_core.refinement.refine` that say what comes of it."""

    config: RefinementConfig

    def run(
        self,
        checkpoints: Checkpoints,
        on_preparing: OnPreparing | None = None,
        on_step: Callable[[StepProgress], None] | None = None,
    ) -> Refinement:
        """Refine; errors are those of `refine`."""
        return refine(
            self.momentum,
            self.original,
            self.data,
            self.preprocessing,
            self.config,
            test_images=self.test_images,
            seed=self.seed,
            checkpoints=checkpoints,
            on_preparing=on_preparing,
            on_step=on_step,
        )


@dataclass(kw_only=True, slots=True)
class FinetuneCall(_Call):
    """The arguments of `momentum_core.refinement.finetune` that say what comes of it."""

    config: FinetuningConfig
    num_classes: int

    def run(
        self,
        checkpoints: Checkpoints,
        on_preparing: OnPreparing | None = None,
        on_step: Callable[[str, StepProgress], None] | None = None,
    ) -> Finetuning:
        """Fine-tune; errors are those of `finetune`."""
        return finetune(
            self.momentum,
            self.original,
            self.data,
            self.preprocessing,
            self.config,
            num_classes=self.num_classes,
            test_images=self.test_images,
            seed=self.seed,
            checkpoints=checkpoints.below,
            on_preparing=on_preparing,
            on_step=on_step,
        )


TrainingCall = RefineCall | FinetuneCall
