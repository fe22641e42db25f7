"""One optimizer step: gradients of the batch's parts added up, bounded, and applied."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from momentum_core.config import Preprocessing
from momentum_core.memory_errors import is_out_of_memory
from momentum_core.refinement.evaluate import to_input
from momentum_core.refinement.objective import Objective
from momentum_core.refinement.processes import Processes
from momentum_core.refinement.recipe import Recipe

MAX_GRADIENT_NORM = 1.0
"""With fixed normalisation statistics nothing else bounds the first steps."""


class NotFiniteError(Exception):
    """Loss or gradients are no numbers any more; the weights were not changed."""


@dataclass(slots=True)
class Stepper:
    """Takes steps; remembers how many images fit."""

    objective: Objective
    preprocessing: Preprocessing
    recipe: Recipe
    micro_batch_size: int
    has_halved: bool = False
    """Memory ran out once; a second time it is an error."""

    processes: Processes = field(default_factory=Processes.current)
    """Who takes which part of a batch."""

    def take(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        images: NDArray[np.uint8],
        labels: NDArray[np.int64] | None,
    ) -> dict[str, float]:
        """Train on a batch; return the parts of the loss.

        Raises:
            NotFiniteError: loss or gradients are not finite.
            StateRangeError: an activation does not fit the integer state.
        """
        try:
            parts = self._gradients(model, optimizer, images, labels)
        except (RuntimeError, MemoryError) as error:  # torch.OutOfMemoryError is one of the first
            if not self._can_halve or not is_out_of_memory(error):
                raise
            parts = None
        if parts is None:  # outside of the handler, whose traceback holds the activations
            self.has_halved = True
            self.micro_batch_size = (self.micro_batch_size + 1) // 2
            parts = self._gradients(model, optimizer, images, labels)
        norm = nn.utils.clip_grad_norm_(model.parameters(), MAX_GRADIENT_NORM)
        if not math.isfinite(sum(parts.values())) or not math.isfinite(float(norm)):
            raise NotFiniteError
        optimizer.step()
        return parts

    @property
    def _can_halve(self) -> bool:
        # Other processes would wait for the gradients of this one.
        return not self.has_halved and self.micro_batch_size > 1 and self.processes.count == 1

    def _gradients(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        images: NDArray[np.uint8],
        labels: NDArray[np.int64] | None,
    ) -> dict[str, float]:
        device = next(model.parameters()).device
        is_mixed = self.recipe.precision == "bfloat16"
        optimizer.zero_grad(set_to_none=True)
        sums: dict[str, float] = {}
        own = self.processes.share(len(images))
        for start in range(own.start, own.stop, self.micro_batch_size):
            piece = slice(start, min(start + self.micro_batch_size, own.stop))
            batch = to_input(images[piece], self.preprocessing, device)
            truth = None if labels is None else torch.from_numpy(labels[piece]).to(device)
            # Gradients of several processes are averaged, those of pieces are added up.
            share = len(batch) / len(images) * self.processes.count
            with _unsynced(model, unless=piece.stop == own.stop):
                with torch.autocast(device.type, torch.bfloat16, enabled=is_mixed):
                    parts = self.objective.parts(model, batch, truth)
                loss = torch.stack(list(parts.values())).sum() * share
                loss.backward()  # type: ignore[no-untyped-call]
            for name, part in parts.items():
                sums[name] = sums.get(name, 0.0) + share * float(part.detach())
        return self.processes.mean(sums)


@contextmanager
def _unsynced(model: nn.Module, *, unless: bool) -> Iterator[None]:
    """Keep gradients in this process, but for the last piece's."""
    with (
        model.no_sync()
        if isinstance(model, DistributedDataParallel) and not unless
        else nullcontext()
    ):
        yield
