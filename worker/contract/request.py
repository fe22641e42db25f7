"""What a user asks for: validated by the API, stored with the job, read by the worker."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Self

from momentum_core.config import (
    ConversionConfig,
    MeasurementConfig,
    Preprocessing,
    RefinementConfig,
)
from momentum_core.errors import ConfigError

MAX_NAME_CHARACTERS = 200
MAX_SEED = 2**32 - 1


@dataclass(frozen=True, kw_only=True, slots=True)
class ZooSource:
    """Weights of the model zoo."""

    zoo: str
    """Name of the entry, as in GET /zoo."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ConvertRequest:
    """One conversion."""

    source: ZooSource | None = None
    """Weights of the model zoo; None when a checkpoint is sent."""

    architecture: str | None = None
    """Architecture of the checkpoint; None finds it from names and shapes."""

    preprocessing: Preprocessing | None = None
    """How the data's pixels become the network's input; None takes the zoo entry's."""

    conversion: ConversionConfig = field(default_factory=ConversionConfig)
    measurement: MeasurementConfig = field(default_factory=MeasurementConfig)
    refinement: RefinementConfig = field(default_factory=RefinementConfig)

    seed: int = 0
    """Of every random choice; the same request on the same machine gives the same weights."""

    name: str | None = None
    """Free text to find the job by."""

    def __post_init__(self) -> None:
        if self.conversion.gamma == "auto":
            raise ConfigError(
                "gamma 'auto' is chosen by calibration, which the service does not do yet; give a "
                "number, or use momentum_core.calibration.calibrate"
            )
        if self.name is not None and not 0 < len(self.name) <= MAX_NAME_CHARACTERS:
            raise ConfigError(f"name must have 1 to {MAX_NAME_CHARACTERS} characters")
        if self.name is not None and not self.name.isprintable():
            raise ConfigError("name must have printable characters only, without line breaks")
        if not 0 <= self.seed <= MAX_SEED:
            raise ConfigError(f"seed must be a whole number from 0 to {MAX_SEED}")

    def to_json(self) -> dict[str, Any]:
        """Return the request as JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """Make the request of what `to_json` gave."""
        source, given = values["source"], values["preprocessing"]
        return cls(
            **values
            | {
                "source": source and ZooSource(**source),
                "preprocessing": given
                and Preprocessing(mean=tuple(given["mean"]), std=tuple(given["std"])),
                "conversion": ConversionConfig(**values["conversion"]),
                "measurement": MeasurementConfig(**values["measurement"]),
                "refinement": RefinementConfig(**values["refinement"]),
            }
        )
