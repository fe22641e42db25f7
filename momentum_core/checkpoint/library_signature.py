"""What is known of a library's architecture without the library: told by whoever has built it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True, kw_only=True, slots=True)
class LibrarySignature:
    """Names and shapes of an architecture's weights, and its input."""

    name: str
    """As `momentum_core.architectures.build_named` takes it."""

    shapes: Shapes
    """In the order of the `state_dict`, with `num_classes` outputs."""

    class_tensors: tuple[str, ...]
    """Tensors whose first dimension is the number of classes; empty where that is fixed."""

    buffers: tuple[str, ...]
    """Tensors that no gradient trains."""

    num_classes: int
    in_channels: int
    image_side: int

    def shapes_for(self, num_classes: int) -> Shapes:
        """Return the shapes with another number of classes."""
        return {
            name: (num_classes, *shape[1:]) if name in self.class_tensors else shape
            for name, shape in self.shapes.items()
        }

    def num_classes_of(self, shapes: Mapping[str, tuple[int, ...]]) -> int:
        """Return the number of classes of weights, by the first of `class_tensors` they have."""
        for name in self.class_tensors:
            if shapes.get(name):
                return shapes[name][0]
        return self.num_classes

    def to_json(self) -> dict[str, Any]:
        """Return the signature as JSON values."""
        return asdict(self) | {"shapes": {name: list(one) for name, one in self.shapes.items()}}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """Make the signature of what `to_json` gave."""
        lists = {name: tuple(values[name]) for name in ("class_tensors", "buffers")}
        shapes = {name: tuple(shape) for name, shape in values["shapes"].items()}
        return cls(**values | lists | {"shapes": shapes})
