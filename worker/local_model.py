"""A network that a command names: a checkpoint file, a zoo entry, or an architecture."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import nn

from momentum_core.architectures import build_named, build_without_memory, library_signature
from momentum_core.checkpoint import ARCHITECTURES
from momentum_core.errors import ArchitectureError
from worker.contract.intake import inspect_checkpoint
from worker.contract.zoo import find_zoo_entry, is_of_library

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
        name: path of a checkpoint; else a zoo entry or an architecture, a library's included.
        has_memory: whether it is to be run; if not, its tensors have shapes alone.

    Raises:
        CheckpointError: the file is refused.
        ArchitectureError: its weights fit no known architecture, or the name means none.
    """
    path = Path(name)
    build = build_named if has_memory else build_without_memory
    if not path.is_file():
        return _by_name(name, build)
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


def _by_name(name: str, build: Callable[..., nn.Module]) -> LocalModel:
    architecture, num_classes = _known(name)
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


def _known(name: str) -> tuple[str, int]:
    """Return the architecture of a name, and its usual number of classes."""
    if is_of_library(name):
        signature = library_signature(name)
        assert signature is not None, "it is a library's"
        return name, signature.num_classes
    try:
        entry = find_zoo_entry(name)
    except ArchitectureError as error:
        if name in ARCHITECTURES:
            return name, _IMAGENET_CLASSES
        raise ArchitectureError(
            f"{name!r} is no file, no zoo entry and no architecture ({error}); architectures are "
            f"{', '.join(ARCHITECTURES)}, and torchvision:NAME and timm:NAME",
            code="unknown_architecture",
        ) from None
    return entry.architecture, entry.num_classes
