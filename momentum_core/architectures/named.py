"""Architectures of this project, of torchvision and of timm by one kind of name."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Any, cast

import torch
from torch import nn

from momentum_core.architectures.build import build
from momentum_core.checkpoint import input_shape
from momentum_core.errors import ArchitectureError

_IMAGE_SIDE = 224


def build_named(name: str, *, num_classes: int | None = None) -> nn.Module:
    """Return the architecture `name` with random weights; the caller's random numbers stay.

    Nothing is fetched, and no file is read.

    Args:
        name: one of `momentum_core.checkpoint.ARCHITECTURES`, or `torchvision:` or `timm:` and the
            library's name of a classification model.
        num_classes: outputs of the last layer; None for the library's own number.

    Raises:
        ArchitectureError: `unknown_architecture`; `library_missing`, when timm is not installed;
                `missing_num_classes`.
    """
    library, _, own_name = name.partition(":")
    with torch.random.fork_rng(devices=[]):
        if library == "torchvision":
            return _torchvision(own_name, num_classes)
        if library == "timm":
            return _timm(own_name, num_classes)
        if num_classes is None:
            raise ArchitectureError(
                f"{name} needs num_classes: the outputs of its last layer",
                code="missing_num_classes",
            )
        return build(name, num_classes=num_classes)


def named_input_shape(name: str) -> tuple[int, ...]:
    """Return the usual shape of one input, without the batch.

    Raises:
        ArchitectureError: as `build_named`.
    """
    library, _, own_name = name.partition(":")
    if library == "timm":
        import timm

        configuration = timm.models.get_pretrained_cfg(own_name)
        return tuple(configuration.input_size) if configuration else (3, _IMAGE_SIDE, _IMAGE_SIDE)
    if library == "torchvision":
        return (3, _IMAGE_SIDE, _IMAGE_SIDE)
    channels, side = input_shape(name)
    return (channels, side, side)


def _torchvision(name: str, num_classes: int | None) -> nn.Module:
    from torchvision import models

    known = models.list_models(module=models)
    if name not in known:
        raise _unknown(name, "classification model of torchvision", known)
    options = {} if num_classes is None else {"num_classes": num_classes}
    return cast(nn.Module, models.get_model(name, weights=None, **options))


def _timm(name: str, num_classes: int | None) -> nn.Module:
    try:
        import timm
    except ImportError:
        raise ArchitectureError(
            f"timm:{name} needs the package timm; pip install timm", code="library_missing"
        ) from None
    # Refuses timm's names of repositories and folders, too: those are not architectures.
    if not timm.is_model(name):
        raise _unknown(name, "model of timm", timm.list_models())
    options: dict[str, Any] = {} if num_classes is None else {"num_classes": num_classes}
    return timm.create_model(name, pretrained=False, **options)


def _unknown(name: str, kind: str, known: list[str]) -> ArchitectureError:
    near = get_close_matches(name[:80], known, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]}?" if near else "; update the library or correct the name"
    return ArchitectureError(f"{ascii(name)[:82]} is no {kind}{hint}", code="unknown_architecture")
