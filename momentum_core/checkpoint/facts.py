"""What is known of a file once it has been inspected; small values that travel as JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any, Self


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointFacts:
    """Facts on a checkpoint that was accepted."""

    format: str
    """`torch_zip`, `torch_legacy` or `safetensors`."""

    architecture: str
    """Name of the architecture that the weights belong to."""

    architecture_found: bool
    """Whether it was found from names and shapes rather than named by the user."""

    num_classes: int
    """Outputs of the last layer."""

    num_tensors: int
    """Tensors in the canonical file."""

    num_parameters: int
    """Trainable numbers; running statistics are not counted."""

    sha256: str
    """SHA-256 of the file that was sent, in hexadecimal."""

    ignored: tuple[str, ...]
    """What lay beside the weights and was not read."""

    def to_json(self) -> dict[str, Any]:
        """Return the facts as JSON values."""
        return asdict(self) | {"ignored": list(self.ignored)}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """Make facts of what `to_json` gave; other keys are an error (`KeyError`, `TypeError`)."""
        given = {field.name: values[field.name] for field in fields(cls)}
        return cls(**given | {"ignored": tuple(given["ignored"])})


@dataclass(frozen=True, kw_only=True, slots=True)
class DatasetFacts:
    """Facts on a data set that was accepted."""

    num_train: int
    """Images to refine with."""

    num_test: int
    """Images to measure accuracy with."""

    image_shape: tuple[int, int, int]
    """Height, width, channels."""

    num_classes: int
    """Largest label plus one, 0 without labels; for an archive, the number of its class folders."""

    sha256: str
    """SHA-256 of the file that was sent, in hexadecimal."""

    format: str = "npz"
    """`npz`, or the archive it came in: `zip`, `tar`, `tar.gz`, `tar.zst`."""

    classes: tuple[str, ...] = ()
    """Names of the class folders, sorted; their places are the labels."""

    class_counts: tuple[int, ...] = ()
    """Training images of each of `classes`."""

    num_bad_images: int = 0
    """Images that could not be used and were left out."""

    bad_images: tuple[str, ...] = ()
    """The first 20 of them, each with the reason."""

    num_ignored: int = 0
    """Other files in the archive."""

    ignored: tuple[str, ...] = ()
    """The first 20 of them."""

    def to_json(self) -> dict[str, Any]:
        """Return the facts as JSON values."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(self).items()
        }

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """Make facts of what `to_json` gave; a missing key is an error (`KeyError`)."""
        given = {field.name: values[field.name] for field in fields(cls)}
        height, width, channels = given["image_shape"]
        lists = {name: tuple(one) for name, one in given.items() if isinstance(one, list)}
        return cls(**given | lists | {"image_shape": (height, width, channels)})
