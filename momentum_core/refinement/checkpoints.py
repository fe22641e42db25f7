"""The newest states of one training, in a folder: complete or not there, even after a power cut.

A training that was killed goes on from one and ends with the same bits: images, augmentation and
random numbers of a step follow from seed and step, and the number of threads, on which sums depend,
is that of the start.

Two states are kept, each under the digest of its content: if the newest one is not what was
written, the one before still is.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from momentum_core.durable_files import make_folder, move_file
from momentum_core.failpoints import reach

NUM_KEPT = 2

_NAME = re.compile(r"(\d{8})-([0-9a-f]{64})\.safetensors")
"""Number and SHA-256 of a state."""

_KEY = "training"
EVERY_SECONDS = 15.0

logger = logging.getLogger(__name__)


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

    def __init__(
        self,
        folder: Path,
        *,
        every_seconds: float = EVERY_SECONDS,
        on_discarded: Callable[[str], None] | None = None,
        on_saved: Callable[[], None] | None = None,
    ) -> None:
        """Use a folder, which is made when the first state is written.

        Args:
            folder: of this training alone.
            every_seconds: least time between two states; 0 writes one after each step.
            on_discarded: told why, of each state that is not what was written.
            on_saved: told after each state that was.
        """
        self._folder = folder
        self._every_seconds = every_seconds
        self._on_discarded = on_discarded
        self._on_saved = on_saved
        self._written_at = -float("inf")

    def below(self, name: str) -> Checkpoints:
        """Return the place of one of several trainings, in a folder of this one."""
        return Checkpoints(
            self._folder / name,
            every_seconds=self._every_seconds,
            on_discarded=self._on_discarded,
            on_saved=self._on_saved,
        )

    @property
    def is_due(self) -> bool:
        """Whether it is time for another state."""
        return time.monotonic() - self._written_at >= self._every_seconds

    def save(self, saved: Saved) -> None:
        """Write a state, and forget all but the one before.

        Raises:
            OSError: there is no room.
        """
        make_folder(self._folder)
        descriptor, temporary = tempfile.mkstemp(dir=self._folder, prefix=".training.")
        os.close(descriptor)
        try:
            # Copies, because no two tensors of the file may share memory.
            tensors = {
                name: one.detach().cpu().contiguous().clone() for name, one in saved.tensors.items()
            }
            save_file(tensors, temporary, metadata={_KEY: json.dumps(saved.values)})
            reach("checkpoint.unnamed")
            before = self._states()
            number = before[0].number + 1 if before else 1
            name = f"{number:08d}-{_sha256(Path(temporary))}.safetensors"
            move_file(Path(temporary), self._folder / name)
            for old in before[NUM_KEPT - 1 :]:
                old.path.unlink(missing_ok=True)
        finally:
            Path(temporary).unlink(missing_ok=True)
        reach("checkpoint.saved")
        self._written_at = time.monotonic()
        if self._on_saved is not None:
            self._on_saved()

    def load(self, identity: str) -> Saved | None:
        """Return the newest whole state, if there is one of this very training.

        Args:
            identity: what tells this training from any other; the value `identity` of a state.
        """
        for state in self._states():
            try:
                saved = state.read()
            except OSError as error:
                logger.warning("state %d of the training cannot be read: %s", state.number, error)
                continue
            except (SafetensorError, ValueError, KeyError) as error:
                self._discard(state, f"state {state.number} of the training is damaged: {error}")
                continue
            return saved if saved.values["identity"] == identity else None
        return None

    def _states(self) -> list[_State]:
        """Return what is there, the newest first."""
        try:
            found = [_NAME.fullmatch(path.name) for path in self._folder.iterdir()]
        except FileNotFoundError:
            return []
        states = [
            _State(self._folder / match[0], int(match[1]), match[2]) for match in found if match
        ]
        return sorted(states, key=lambda state: state.number, reverse=True)

    def _discard(self, state: _State, why: str) -> None:
        logger.warning("%s; it goes on from an earlier one, or from the start", why)
        state.path.unlink(missing_ok=True)
        if self._on_discarded is not None:
            self._on_discarded(why)


@dataclass(frozen=True, slots=True)
class _State:
    """A file of a state."""

    path: Path
    number: int
    sha256: str

    def read(self) -> Saved:
        """Read all of it.

        Raises:
            ValueError: it is not what was written.
            OSError: it cannot be read.
        """
        if _sha256(self.path) != self.sha256:
            raise ValueError("its content does not have the digest in its name")
        with safe_open(self.path, framework="pt") as file:
            values = json.loads((file.metadata() or {})[_KEY])
            # Read from the file's own memory, which a later change of the file would change.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
        return Saved(tensors, values)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
