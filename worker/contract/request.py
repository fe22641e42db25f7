"""What a user asks for: validated by the API, stored with the job, read by the worker."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Self

from momentum_core.config import (
    ConversionConfig,
    FinetuningConfig,
    MeasurementConfig,
    Preprocessing,
    RefinementConfig,
)
from momentum_core.errors import ConfigError

REQUEST_VERSION = 3
"""Grows when a request can ask for what older workers do not know: they leave such jobs alone."""

MAX_NAME_CHARACTERS = 200
MAX_TAGS = 20
MAX_TAG_CHARACTERS = 64
MAX_SEED = 2**32 - 1
MIN_SYNTHETIC, MAX_SYNTHETIC = 8, 100_000
MAX_MEMORY_BYTES = 1 << 50

DATASET_NAME = "[A-Za-z0-9][A-Za-z0-9._-]{0,99}"
MAX_DATASET_NAMES = 1000
"""Names of data sets that a worker tells."""


Task = Literal["convert", "finetune"]

Priority = Literal["high", "normal", "low"]

PRIORITIES: tuple[Priority, ...] = ("high", "normal", "low")
"""The most urgent first."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """Weights that do not come along with the request."""

    zoo: str | None = None
    """Name of a zoo entry, as in GET /zoo."""

    upload: str | None = None
    """Id of a checkpoint that was sent with POST /uploads."""

    def __post_init__(self) -> None:
        if (self.zoo is None) == (self.upload is None):
            raise ConfigError("source names either a zoo entry or an upload, one of the two")


@dataclass(frozen=True, kw_only=True, slots=True)
class DataSource:
    """Data that do not come along with the request, and what is taken of them."""

    upload: str | None = None
    """Id of a data set that was sent with POST /uploads."""

    registered: str | None = None
    """Name of a data set that the operator registered, as in GET /datasets."""

    synthetic: int | None = None
    """Number of images to make up, where there are none; half as many more are made to test with.
    What is measured on them says little about real images."""

    labelled: bool = True
    """Whether labels (or class folders) count; if not, the original's answers are the measure."""

    def __post_init__(self) -> None:
        named = (self.upload, self.registered, self.synthetic)
        if sum(one is not None for one in named) > 1:
            raise ConfigError(
                "data names one of an upload, a registered data set and a number of synthetic "
                "images"
            )
        if self.registered is not None and not re.fullmatch(DATASET_NAME, self.registered):
            raise ConfigError(
                f"data.registered is {self.registered[:80]!a}, which no data set can be called; "
                "GET /datasets has their names"
            )
        if self.synthetic is not None and not MIN_SYNTHETIC <= self.synthetic <= MAX_SYNTHETIC:
            raise ConfigError(
                f"data.synthetic must be a whole number from {MIN_SYNTHETIC} to {MAX_SYNTHETIC}, "
                f"got {self.synthetic}"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerNeeds:
    """What a job asks of its worker."""

    device: Literal["cpu", "cuda"] | None = None
    """What it computes on; None leaves it to who is free first."""

    memory_bytes: int | None = None
    """Memory that its device has at least."""

    def __post_init__(self) -> None:
        if self.memory_bytes is not None and not 0 < self.memory_bytes <= MAX_MEMORY_BYTES:
            raise ConfigError(
                "worker.memory_bytes must be a number of bytes above 0, such as 20000000000, got "
                f"{self.memory_bytes}"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class ConvertRequest:
    """One conversion."""

    task: Task = "convert"
    """`convert` keeps the classes; `finetune` gives the network a head for those of the data."""

    source: Source | None = None
    """Where the weights come from; None when a checkpoint is sent along."""

    data: DataSource | None = None
    """Where the data come from; None when they are sent along, or there are none."""

    architecture: str | None = None
    """Architecture of the checkpoint; None finds it from names and shapes."""

    preprocessing: Preprocessing | None = None
    """How the data's pixels become the network's input; None takes the zoo entry's."""

    conversion: ConversionConfig = field(default_factory=ConversionConfig)
    measurement: MeasurementConfig = field(default_factory=MeasurementConfig)
    refinement: RefinementConfig | None = field(default_factory=RefinementConfig)
    """None converts and measures only."""

    finetuning: FinetuningConfig = field(default_factory=FinetuningConfig)
    """Of the task `finetune`, which does not refine."""

    worker: WorkerNeeds = field(default_factory=WorkerNeeds)

    priority: Priority = "normal"
    """Which of a tenant's jobs is taken first; between tenants, who has the fewest running."""

    seed: int = 0
    """Of every random choice; the same request on the same machine gives the same weights."""

    name: str | None = None
    """Free text to find the job by."""

    tags: tuple[str, ...] = ()
    """Words to find jobs by, such as the name of a project."""

    def __post_init__(self) -> None:
        if self.conversion.gamma == "auto" and not self.is_calibrated:
            raise ConfigError(
                "gamma 'auto' is chosen by calibration, which is left out here; give a number, or "
                "leave refinement and calibrate as they are"
            )
        if self.name is not None and not 0 < len(self.name) <= MAX_NAME_CHARACTERS:
            raise ConfigError(f"name must have 1 to {MAX_NAME_CHARACTERS} characters")
        if self.name is not None and not self.name.isprintable():
            raise ConfigError("name must have printable characters only, without line breaks")
        if len(self.tags) > MAX_TAGS or len(set(self.tags)) != len(self.tags):
            raise ConfigError(f"tags must be at most {MAX_TAGS} different words")
        for tag in self.tags:
            if not 0 < len(tag) <= MAX_TAG_CHARACTERS or not tag.isprintable():
                raise ConfigError(
                    f"a tag must have 1 to {MAX_TAG_CHARACTERS} printable characters, got "
                    f"{tag[:80]!a}"
                )
        if not 0 <= self.seed <= MAX_SEED:
            raise ConfigError(f"seed must be a whole number from 0 to {MAX_SEED}")

    @property
    def uses_labels(self) -> bool:
        """Whether labels count, where there are any."""
        return self.data is None or (self.data.labelled and self.data.synthetic is None)

    @property
    def keeps_classes(self) -> bool:
        """Whether labels must be those of the network's outputs; fine-tuning takes the data's."""
        return self.task == "convert" and self.uses_labels

    @property
    def num_synthetic(self) -> int:
        """How many images to make up; 0 takes real ones."""
        return 0 if self.data is None else self.data.synthetic or 0

    @property
    def dataset_name(self) -> str | None:
        """Name of the registered data set that is wanted."""
        return None if self.data is None else self.data.registered

    @property
    def is_calibrated(self) -> bool:
        """Whether calibration is asked for; it happens where there are images."""
        if self.task == "finetune":
            return self.finetuning.calibrate
        return self.refinement is not None and self.refinement.calibrate

    @property
    def zoo_name(self) -> str | None:
        """Name of the zoo entry whose weights are wanted."""
        return None if self.source is None else self.source.zoo

    @property
    def version(self) -> int:
        """The first `REQUEST_VERSION` that knows all that is asked for."""
        refinement = self.refinement
        moves_gamma = refinement is not None and refinement.gamma_steps != "auto"
        if self.dataset_name is not None or moves_gamma:
            return 3
        return 1 if (self.worker, self.priority) == (WorkerNeeds(), "normal") else 2

    def to_json(self) -> dict[str, Any]:
        """Return the request as JSON values."""
        values = asdict(self)
        # Workers of a version take no name that they do not know.
        if self.data is not None and self.version < 3:
            del values["data"]["registered"]
        if self.refinement is not None and self.version < 3:
            del values["refinement"]["gamma_steps"]
        if self.version == 1:
            del values["worker"], values["priority"]
        return values

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """Make the request of what `to_json` gave."""
        source, data, given = values["source"], values.get("data"), values["preprocessing"]
        return cls(
            **values
            | {
                "source": source and Source(**source),
                "data": data and DataSource(**data),
                "tags": tuple(values.get("tags", ())),
                "preprocessing": given
                and Preprocessing(mean=tuple(given["mean"]), std=tuple(given["std"])),
                "conversion": ConversionConfig(**values["conversion"]),
                "measurement": MeasurementConfig(**values["measurement"]),
                "refinement": values["refinement"]
                and RefinementConfig.from_json(values["refinement"]),
                "finetuning": FinetuningConfig(**values.get("finetuning", {})),
                "worker": WorkerNeeds(**values.get("worker", {})),
            }
        )
