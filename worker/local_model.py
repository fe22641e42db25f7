"""A network that a command names: a checkpoint file, a zoo entry, or an architecture."""

from __future__ import annotations

import contextlib
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from momentum_core.architectures import build
from momentum_core.checkpoint import ARCHITECTURES
from momentum_core.errors import ArchitectureError
from worker.contract.intake import inspect_checkpoint
from worker.contract.zoo import find_zoo_entry

_IMAGENET_CLASSES = 1000


@dataclass(frozen=True, kw_only=True, slots=True)
class LocalModel:
    """A network to measure or to predict."""

    model: nn.Module
    architecture: str
    num_classes: int
    source: dict[str, Any]
    """The report's account of where the weights come from."""


def find_model(name: str, *, has_memory: bool = True) -> LocalModel:
    """Return the network that `name` means.

    A file is read as the service reads what strangers send. A zoo entry or an architecture gets
    random weights, as memory and time do not depend on them, and nothing is downloaded.

    Args:
        name: path of a checkpoint; else a zoo entry or an architecture.
        has_memory: whether it is to be run; if not, its tensors have shapes alone.

    Raises:
        CheckpointError: the file is refused.
        ArchitectureError: its weights fit no known architecture, or the name means none.
    """
    path = Path(name)
    with contextlib.nullcontext() if has_memory else torch.device("meta"):
        if not path.is_file():
            return _by_name(name)
        with tempfile.TemporaryDirectory() as folder:
            weights = Path(folder) / "model.safetensors"
            facts = inspect_checkpoint(path, weights)
            model = build(facts.architecture, num_classes=facts.num_classes)
            if has_memory:
                model.load_state_dict(load_file(weights))
    return LocalModel(
        model=model,
        architecture=facts.architecture,
        num_classes=facts.num_classes,
        source=facts.to_json(),
    )


def _by_name(name: str) -> LocalModel:
    try:
        entry = find_zoo_entry(name)
    except ArchitectureError as error:
        if name not in ARCHITECTURES:
            raise ArchitectureError(
                f"{name!r} is no file, no zoo entry and no architecture ({error}); architectures "
                f"are {', '.join(ARCHITECTURES)}",
                code="unknown_architecture",
            ) from None
        architecture, num_classes = name, _IMAGENET_CLASSES
    else:
        architecture, num_classes = entry.architecture, entry.num_classes
    model = build(architecture, num_classes=num_classes)
    return LocalModel(
        model=model,
        architecture=architecture,
        num_classes=num_classes,
        source={
            "architecture": architecture,
            "num_classes": num_classes,
            "num_parameters": sum(parameter.numel() for parameter in model.parameters()),
            "weights": "random: memory and time do not depend on them",
        },
    )
