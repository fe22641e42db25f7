"""The newest state of one training, in a folder: complete or not there, even after a power cut.

A training that was killed goes on from it and ends with the same bits: images, augmentation and
random numbers of a step follow from seed and step, and the number of threads, on which sums depend,
is that of the start.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from momentum_core.durable_files import move_file

_FILE = "training.safetensors"
_KEY = "training"
EVERY_SECONDS = 15.0


@dataclass(frozen=True, slots=True)
class Saved:
    """What was written: tensors by name, and the rest as JSON values."""

    tensors: dict[str, Tensor]
    values: dict[str, Any]

    def part(self, prefix: str) -> dict[str, Tensor]:
        """Return the tensors below a prefix, without it."""
        start = f"{prefix}/"
        found = self.tensors.items()
        return {name.removeprefix(start): one for name, one in found if name.startswith(start)}


class Checkpoints:
    """Writes now and then, reads once."""

    def __init__(self, folder: Path, *, every_seconds: float = EVERY_SECONDS) -> None:
        """Use a folder, which is made when the first state is written.

        Args:
            folder: of this training alone.
            every_seconds: least time between two states; 0 writes one after each step.
        """
        self._folder = folder
        self._every_seconds = every_seconds
        self._written_at = -float("inf")

    def below(self, name: str) -> Checkpoints:
        """Return the place of one of several trainings, in a folder of this one."""
        return Checkpoints(self._folder / name, every_seconds=self._every_seconds)

    @property
    def is_due(self) -> bool:
        """Whether it is time for another state."""
        return time.monotonic() - self._written_at >= self._every_seconds

    def save(self, saved: Saved) -> None:
        """Write a state in the place of the one before.

        Raises:
            OSError: there is no room.
        """
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor, temporary = tempfile.mkstemp(dir=self._folder, prefix=".training.")
        os.close(descriptor)
        try:
            # Copies, because no two tensors of the file may share memory.
            tensors = {
                name: one.detach().cpu().contiguous().clone() for name, one in saved.tensors.items()
            }
            save_file(tensors, temporary, metadata={_KEY: json.dumps(saved.values)})
            move_file(Path(temporary), self._folder / _FILE)
        finally:
            Path(temporary).unlink(missing_ok=True)
        self._written_at = time.monotonic()

    def load(self, identity: str) -> Saved | None:
        """Return the state, if there is one of this very training.

        Args:
            identity: what tells this training from any other; the value `identity` of a state.
        """
        try:
            with safe_open(self._folder / _FILE, framework="pt") as file:
                values = json.loads((file.metadata() or {})[_KEY])
                if values["identity"] != identity:
                    return None
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError, ValueError, KeyError):
            return None
        return Saved(tensors, values)


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return what an optimizer keeps for each parameter, by number and name."""
    found = optimizer.state_dict()["state"]
    return {
        f"{number}/{name}": torch.as_tensor(value)
        for number, kept in found.items()
        for name, value in kept.items()
        if value is not None
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Give an optimizer back what `optimizer_tensors` returned."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        number, _, name = key.partition("/")
        state.setdefault(int(number), {})[name] = tensor
    optimizer.load_state_dict(optimizer.state_dict() | {"state": state})
