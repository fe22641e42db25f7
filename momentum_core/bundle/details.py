"""What the one who saves a momentum model says of it, besides the model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from momentum_core.config import Preprocessing
from momentum_core.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class BundleDetails:
    """Which network it is, what it takes, and where it comes from."""

    architecture: str | None = None
    """One of `momentum_core.checkpoint.ARCHITECTURES`, or `torchvision:` or `timm:` and the
    library's name of a classification model. None: whoever loads it gives the architecture."""

    num_classes: int | None = None
    """Outputs of the last layer; None for the library's own number."""

    preprocessing: Preprocessing | None = None
    """How pixels become the network's input, if known."""

    input_shape: tuple[int, ...] | None = None
    """Of one example input, without the batch; None for the architecture's usual one. Models that
    take something else than one tensor of floats have none."""

    source: Mapping[str, Any] = field(default_factory=dict)
    """Where the weights come from, as JSON values: file, digest, licence, training data."""

    results: Mapping[str, str] = field(default_factory=dict)
    """What was measured, for the model card only: a line each, with its unit."""

    def __post_init__(self) -> None:
        for name in ("architecture", "num_classes", "input_shape"):
            value, kind = getattr(self, name), _KINDS[name]
            if value is not None and (not isinstance(value, kind) or isinstance(value, bool)):
                raise ConfigError(f"{name} must be of the type {kind.__name__}, got {value!r}")
        if self.num_classes is not None and self.num_classes < 1:
            raise ConfigError(f"num_classes must be at least 1, got {self.num_classes}")
        if any(not isinstance(size, int) or size < 1 for size in self.input_shape or ()):
            raise ConfigError(f"input_shape must hold sizes from 1 up, got {self.input_shape}")


_KINDS: Mapping[str, type] = {"architecture": str, "num_classes": int, "input_shape": tuple}
