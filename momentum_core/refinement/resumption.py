"""From a training to what is saved of it, and back."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import torch
from torch import nn

from momentum_core.refinement.checkpoints import (
    Checkpoints,
    Saved,
    optimizer_tensors,
    restore_optimizer,
)
from momentum_core.refinement.goal import Score
from momentum_core.refinement.processes import Processes
from momentum_core.refinement.series import Series
from momentum_core.refinement.step import Stepper
from momentum_core.refinement.training import Evaluated, TrainingState
from momentum_core.refinement.training_images import TrainingImages

SCHEMA = 1


def identity_of(models: Iterable[nn.Module], data: TrainingImages, **values: Any) -> str:
    """Return a digest of all that decides how a training goes.

    Args:
        models: their weights count.
        data: images and labels.
        **values: everything else, as JSON values.
    """
    digest = hashlib.sha256()
    told = {"schema": SCHEMA, "torch": torch.__version__, **values}
    digest.update(json.dumps(told, sort_keys=True, default=str).encode())
    for image in data.images:
        digest.update(image.tobytes())
    digest.update(b"" if data.labels is None else data.labels.tobytes())
    for model in models:
        for name, tensor in model.state_dict().items():
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().numpy().tobytes())
    return digest.hexdigest()


class Resumption:
    """Saves a training now and then, and lets it go on."""

    def __init__(self, checkpoints: Checkpoints, identity: str) -> None:
        self._checkpoints = checkpoints
        self._identity = identity
        self._saved = _state_of_first(checkpoints, identity, Processes.current())
        self.extra: dict[str, Any] = {} if self._saved is None else self._saved.values["extra"]
        """What the caller wants to know again, as JSON values."""

        self.resumed_at: list[int] = []
        """Steps at which the training went on after an interruption."""

        self._num_threads = torch.get_num_threads()
        if self._saved is not None:
            self._num_threads = self._saved.values["num_threads"]
            self.resumed_at = [*self._saved.values["resumed_at"], self._saved.values["step"]]

    @property
    def has_state(self) -> bool:
        """Whether there is a state to go on from."""
        return self._saved is not None

    @contextmanager
    def threads(self) -> Iterator[None]:
        """Compute with as many threads as at the start: the order of sums depends on them."""
        before = torch.get_num_threads()
        torch.set_num_threads(self._num_threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)

    def restore(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, stepper: Stepper
    ) -> TrainingState:
        """Put the saved state into a model and an optimizer that were made as at the start."""
        assert self._saved is not None
        values = self._saved.values
        model.load_state_dict(self._saved.part("model"))
        restore_optimizer(optimizer, self._saved.part("optimizer"))
        device = next(model.parameters()).device
        stepper.micro_batch_size = values["micro_batch_size"]
        stepper.has_halved = values["has_halved"]
        return TrainingState(
            model,
            optimizer,
            {name: one.to(device) for name, one in self._saved.part("best").items()},
            Score(**values["best_score"]),
            best_step=values["best_step"],
            step=values["step"],
            seconds=values["seconds"],
            evaluations=[Evaluated(**one) for one in values["evaluations"]],
            series=Series(**values["series"]),
            stopped=values["stopped"],
        )

    def keep(self, state: TrainingState, stepper: Stepper, *, is_last_chance: bool) -> None:
        """Save a state if it is time, or if training is about to be stopped."""
        if not is_last_chance and not self._checkpoints.is_due:
            return
        tensors = {
            **{f"model/{name}": one for name, one in state.model.state_dict().items()},
            **{f"best/{name}": one for name, one in state.best.items()},
            **{
                f"optimizer/{name}": one for name, one in optimizer_tensors(state.optimizer).items()
            },
        }
        values = {
            "identity": self._identity,
            "num_threads": self._num_threads,
            "resumed_at": self.resumed_at,
            "extra": self.extra,
            "micro_batch_size": stepper.micro_batch_size,
            "has_halved": stepper.has_halved,
            "best_score": asdict(state.best_score),
            "best_step": state.best_step,
            "step": state.step,
            "seconds": state.seconds,
            "evaluations": [asdict(one) for one in state.evaluations],
            "series": asdict(state.series),
            "stopped": state.stopped,
        }
        self._checkpoints.save(Saved(tensors, values))


def _state_of_first(checkpoints: Checkpoints, identity: str, processes: Processes) -> Saved | None:
    """Return the saved state, which of several processes the first alone reads.

    Its models are those that count, too, and so is the identity that is made of them.
    """
    saved: list[Saved | None] = [None]

    def load() -> dict[str, Any] | None:
        saved[0] = checkpoints.load(identity)
        return None if saved[0] is None else saved[0].values

    values = processes.from_first(load)
    if values is None:
        return None
    own = {} if saved[0] is None else saved[0].tensors
    return Saved(processes.tensors_from_first(own), values)
