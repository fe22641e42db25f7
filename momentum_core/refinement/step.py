"""One optimizer step: gradients of the batch's parts added up, bounded, and applied."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from momentum_core.config import Preprocessing
from momentum_core.memory_errors import is_out_of_memory
from momentum_core.refinement.evaluate import to_input
from momentum_core.refinement.objective import Objective
from momentum_core.refinement.processes import NotFiniteError, Processes
from momentum_core.refinement.recipe import Recipe

MAX_GRADIENT_NORM = 1.0
"""With fixed normalisation statistics nothing else bounds the first steps."""


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
        return not self.has_halved and self.micro_batch_size > 1

    def _gradients(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        images: NDArray[np.uint8],
        labels: NDArray[np.int64] | None,
    ) -> dict[str, float]:
        optimizer.zero_grad(set_to_none=True)
        told: list[tuple[float, dict[str, Tensor]]] = []

        def add_up() -> None:
            for piece in self._pieces(len(images)):
                share, parts = self._parts(model, images, labels, piece)
                told.append((share, {name: part.detach() for name, part in parts.items()}))
                loss = torch.stack(list(parts.values())).sum() * share
                loss.backward()  # type: ignore[no-untyped-call]

        self.processes.together(add_up)
        self.processes.average_gradients(model)
        return self.processes.mean(_added_up(told))

    def _pieces(self, num_images: int) -> list[slice]:
        """Return what of a batch this process computes at once: at least one piece."""
        own = self.processes.share(num_images)
        starts = range(own.start, own.stop, self.micro_batch_size) or [own.start]
        return [slice(start, min(start + self.micro_batch_size, own.stop)) for start in starts]

    def _parts(
        self,
        model: nn.Module,
        images: NDArray[np.uint8],
        labels: NDArray[np.int64] | None,
        piece: slice,
    ) -> tuple[float, dict[str, Tensor]]:
        """Return the weight of a piece's loss in the batch's, and its parts."""
        device = next(model.parameters()).device
        num_images = piece.stop - piece.start
        # A process without a share of a small batch shows its model some image all the same.
        shown = piece if num_images else slice(0, 1)
        batch = to_input(images[shown], self.preprocessing, device)
        truth = None if labels is None else torch.from_numpy(labels[shown]).to(device)
        is_mixed = self.recipe.precision == "bfloat16"
        with torch.autocast(device.type, torch.bfloat16, enabled=is_mixed):
            parts = self.objective.parts(model, batch, truth)
        # Gradients of several processes are averaged, those of pieces are added up.
        return num_images / len(images) * self.processes.count, parts


def _added_up(told: list[tuple[float, dict[str, Tensor]]]) -> dict[str, float]:
    sums: dict[str, float] = {}
    for share, parts in told:
        for name, part in parts.items():
            sums[name] = sums.get(name, 0.0) + share * float(part)
    return sums
