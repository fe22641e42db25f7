"""What every image of a data set becomes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from momentum_core.errors import ConfigError

LARGE_SIDE = 64
"""From here on images are resized a little larger before their centre is cut out."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageForm:
    """What every image of a data set becomes."""

    side: int = 224
    """Height and width, in pixels."""

    resize_side: int = 256
    """Shorter side after resizing, before the centre is cut out."""

    channels: int = 3
    """1 (grey) or 3 (RGB)."""

    def __post_init__(self) -> None:
        if not 1 <= self.side <= self.resize_side or self.channels not in (1, 3):
            raise ConfigError(
                "images need 1 <= side <= resize_side and 1 or 3 channels, got "
                f"{self.side}, {self.resize_side} and {self.channels}"
            )

    @classmethod
    def for_network(cls, side: int, channels: int) -> Self:
        """Return the form of the images of a network.

        As torchvision does: 256 before 224. Images for small networks come as they are.

        Args:
            side: height and width of its input, in pixels.
            channels: of its input.
        """
        resize_side = side * 8 // 7 if side >= LARGE_SIDE else side
        return cls(side=side, resize_side=resize_side, channels=channels)

    @property
    def num_bytes(self) -> int:
        """Bytes of one image."""
        return self.side * self.side * self.channels
