"""Architectures of this project, of torchvision, of timm and of one's own by one kind of name."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Any, cast

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from momentum_core.architectures.build import build
from momentum_core.architectures.registered import OWN, registered
from momentum_core.checkpoint import LibrarySignature, input_shape
from momentum_core.errors import ArchitectureError

_IMAGE_SIDE = 224
_OTHER_CLASSES = 7
"""A number of classes that no model has by itself."""


def build_named(name: str, *, num_classes: int | None = None) -> nn.Module:
    """Return the architecture `name` with random weights; the caller's random numbers stay.

    Nothing is fetched, and no file is read.

    Args:
        name: one of `momentum_core.checkpoint.ARCHITECTURES`; `torchvision:` or `timm:` and the
            library's name of a classification model; or `own:` and a registered name.
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
        if library == OWN:
            return registered(own_name).build(num_classes)
        if ":" in name:
            raise ArchitectureError(
                f"{ascii(name)[:82]} is of no library that is known; write torchvision:NAME, "
                f"timm:NAME, or {OWN}:NAME for a registered one",
                code="unknown_architecture",
            )
        if num_classes is None:
            raise ArchitectureError(
                f"{name} needs num_classes: the outputs of its last layer",
                code="missing_num_classes",
            )
        return build(name, num_classes=num_classes)


class _WithoutMemory(TorchFunctionMode):
    """Gives new parameters and buffers shapes alone; what constructors compute with stays real."""

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        options = dict(kwargs or {})
        if function in _MAKE_TENSORS and options.get("device") is None:
            options["device"] = "meta"
        return function(*args, **options)


_MAKE_TENSORS = (torch.empty, torch.zeros, torch.ones, torch.rand, torch.randn, torch.full)


def build_without_memory(name: str, *, num_classes: int | None = None) -> nn.Module:
    """Return the architecture `name` on the device `meta`, where tensors have shapes alone.

    Args:
        name: as `build_named` takes it.
        num_classes: outputs of the last layer; None for the library's own number.

    Raises:
        ArchitectureError: as `build_named`.
    """
    with _WithoutMemory():
        return build_named(name, num_classes=num_classes).to("meta")


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
    if library == OWN:
        return registered(own_name).input_shape
    channels, side = input_shape(name)
    return (channels, side, side)


def library_signature(name: str) -> LibrarySignature | None:
    """Return what is to be known of a library's architecture to check weights without it.

    Args:
        name: as `build_named` takes it.

    Returns:
        The signature; None for an architecture of this project, which the table has.

    Raises:
        ArchitectureError: as `build_named`.
    """
    if ":" not in name:
        input_shape(name)  # refuses what is not known
        return None
    model = build_without_memory(name)
    shapes = _shapes(model)
    num_classes, class_tensors = _classes(name, shapes)
    channels, height, width = named_input_shape(name)
    kept = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    return LibrarySignature(
        name=name,
        shapes=shapes,
        class_tensors=class_tensors,
        buffers=tuple(each for each in shapes if each not in kept),
        num_classes=num_classes,
        in_channels=channels,
        image_side=max(height, width),
    )


def _classes(name: str, shapes: dict[str, tuple[int, ...]]) -> tuple[int, tuple[str, ...]]:
    """Find what depends on the number of classes, by building the model with another one."""
    other = _shapes(build_without_memory(name, num_classes=_OTHER_CLASSES))
    differing = tuple(each for each, shape in shapes.items() if other.get(each) != shape)
    counted = {shapes[each][0] for each in differing if shapes[each]}
    fits = all(other.get(each) == (_OTHER_CLASSES, *shapes[each][1:]) for each in differing)
    if len(counted) != 1 or not fits:
        raise ArchitectureError(
            f"{name} is no classifier whose last layer alone depends on the number of classes; "
            "give another architecture",
            code="unknown_architecture",
        )
    return counted.pop(), differing


def _shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(one.shape) for name, one in model.state_dict().items()}


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
