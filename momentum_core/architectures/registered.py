"""Architectures of one's own: registered by a program, a package's entry point, or a setting."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.metadata import entry_points
from pkgutil import resolve_name
from typing import Any

from torch import nn

from momentum_core.errors import ArchitectureError

OWN = "own"
"""What stands before the colon of their names."""

ENTRY_POINTS = "momentum_zoo.architectures"
"""Group of entry points: the name is the architecture's, the value what builds it."""

_INPUT_SHAPE = (3, 224, 224)


@dataclass(frozen=True, slots=True)
class Registered:
    """An architecture that somebody registered."""

    name: str
    factory: Callable[..., nn.Module]
    input_shape: tuple[int, int, int]
    """Of one input: channels, height, width."""

    def build(self, num_classes: int | None) -> nn.Module:
        """Return the module; with its own number of classes if None is given."""
        options = {} if num_classes is None else {"num_classes": num_classes}
        model = self.factory(**options)
        if not isinstance(model, nn.Module):
            raise ArchitectureError(
                f"what is registered as {OWN}:{self.name} made a {type(model).__qualname__}, no "
                "torch.nn.Module; register what does",
                code="unknown_architecture",
            )
        return model


_REGISTERED: dict[str, Registered] = {}


def register_architecture(
    name: str,
    factory: Callable[..., nn.Module],
    *,
    input_shape: tuple[int, int, int] | None = None,
) -> None:
    """Register an architecture, which is then known as `own:NAME`.

    A package may register its own with an entry point of the group `momentum_zoo.architectures`.

    Args:
        name: letters, digits and `_.-`.
        factory: called with `num_classes=` or nothing; returns a classifier with random weights.
        input_shape: channels, height and width of an image; None takes the factory's attribute
            `input_shape`, or 3 x 224 x 224.
    """
    own_shape: tuple[int, int, int] = getattr(factory, "input_shape", _INPUT_SHAPE)
    _REGISTERED[name] = Registered(name, factory, input_shape or own_shape)


def register_by_path(name: str, path: str) -> None:
    """Register what a path names, such as `my_package.networks:build`.

    Raises:
        ArchitectureError: `unknown_architecture`, when there is nothing to import.
    """
    try:
        found: Any = resolve_name(path)
    except (ImportError, AttributeError, ValueError) as error:
        raise ArchitectureError(
            f"the architecture {OWN}:{name} is to be built by {path!r}, which cannot be imported: "
            f"{error}",
            code="unknown_architecture",
        ) from error
    register_architecture(name, found)


def registered(name: str) -> Registered:
    """Return an architecture by its name without `own:`.

    Raises:
        ArchitectureError: `unknown_architecture`.
    """
    points = entry_points(group=ENTRY_POINTS)
    if name not in _REGISTERED and name in points.names:
        register_architecture(name, points[name].load())
    if name not in _REGISTERED:
        known = sorted({*_REGISTERED, *points.names})
        near = get_close_matches(name[:80], known, n=1, cutoff=0.5)
        hint = f"did you mean {OWN}:{near[0]}?" if near else "register it, or correct the name"
        raise ArchitectureError(
            f"no architecture {ascii(name)[:82]} is registered; {hint}",
            code="unknown_architecture",
        )
    return _REGISTERED[name]
