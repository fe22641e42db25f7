"""The zoo's catalogue: published weights that a job may name; a test compares it with torchvision.

A file's published name carries the first eight digits of its SHA-256.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from difflib import get_close_matches
from typing import Any, Self

from momentum_core.config import Preprocessing
from momentum_core.errors import ArchitectureError

BASE_URL = "https://download.pytorch.org/models"

_IMAGENET = Preprocessing(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
_IMAGENET_LICENCE = "BSD-3-Clause (torchvision); trained on ImageNet-1k, whose terms of use apply"
_REFERENCES = "https://github.com/pytorch/vision/tree/main/references/classification"
_ISSUES = "https://github.com/pytorch/vision"


@dataclass(frozen=True, kw_only=True, slots=True)
class ZooEntry:
    """One set of published weights."""

    name: str
    """What a request says, such as `resnet50.IMAGENET1K_V2`."""

    is_default: bool
    """Whether the architecture's name alone means this entry."""

    architecture: str
    """Name of the architecture."""

    num_classes: int
    """Outputs of its last layer."""

    file_name: str
    """Name of the file, in the zoo's folder and at its source."""

    sha256_prefix: str
    """First digits of the file's SHA-256, in hexadecimal."""

    url: str | None
    """Where it is published; None for what the project ships."""

    data_file: str | None
    """Data set that the entry brings, in the folder of shipped entries; None for the others."""

    preprocessing: Preprocessing
    """How pixels become the network's input."""

    image_size: int
    """Side of the square input, in pixels."""

    resize_size: int
    """Shorter side after resizing, before the centre is cut out."""

    published_top1: float | None
    """Published accuracy on the test set, in percent."""

    recipe: str
    """How the weights were trained."""

    licence: str
    """Terms under which they may be used."""

    is_on_hub: bool = False
    """Whether it comes from a Hugging Face hub, which leads to other addresses."""

    local_file: str | None = None
    """The file, where it lies in a folder of the operator's."""

    def to_json(self) -> dict[str, Any]:
        """Return the entry as JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """Make the entry of what `to_json` gave."""
        given = {name: tuple(values["preprocessing"][name]) for name in ("mean", "std")}
        return cls(**values | {"preprocessing": Preprocessing(**given)})


LIBRARIES = ("torchvision", "timm", "hf")
"""What may stand before the colon of a zoo name that the catalogue does not have."""


def is_of_library(name: str) -> bool:
    """Whether a name of a zoo entry or an architecture is a library's: only a worker knows more."""
    return ":" in name


def find_zoo_entry(name: str) -> ZooEntry:
    """Return the entry of a name, with or without the name of the weights.

    Args:
        name: `resnet50.IMAGENET1K_V2`, or `resnet50` for the architecture's default weights.

    Raises:
        ArchitectureError: `unknown_zoo_entry`.
    """
    for entry in ZOO:
        if entry.name == name or (entry.is_default and entry.architecture == name):
            return entry
    known = tuple(dict.fromkeys(spelling for entry in ZOO for spelling in _spellings(entry)))
    lower = {spelling.lower(): spelling for spelling in known}
    near = get_close_matches(name.lower()[:80], lower, n=1, cutoff=0.5)
    hint = f"did you mean {lower[near[0]]}?" if near else "GET /zoo lists all entries"
    raise ArchitectureError(
        f"there is no zoo entry {ascii(name)[:82]}; {hint}", code="unknown_zoo_entry"
    )


def _spellings(entry: ZooEntry) -> tuple[str, ...]:
    return (entry.architecture, entry.name) if entry.is_default else (entry.name,)


def _torchvision(
    architecture: str, weights: str, prefix: str, top1: float, recipe: str, *, default: bool = False
) -> ZooEntry:
    file_name = f"{architecture}-{prefix}.pth"
    # Recipes from 2021 on resize to 232 pixels instead of 256.
    is_older = weights == "IMAGENET1K_V1" and architecture != "resnext101_64x4d"
    return ZooEntry(
        name=f"{architecture}.{weights}",
        is_default=default,
        architecture=architecture,
        num_classes=1000,
        file_name=file_name,
        sha256_prefix=prefix,
        url=f"{BASE_URL}/{file_name}",
        data_file=None,
        preprocessing=_IMAGENET,
        image_size=224,
        resize_size=256 if is_older else 232,
        published_top1=top1,
        recipe=recipe,
        licence=_IMAGENET_LICENCE,
    )


_V1, _V2 = "IMAGENET1K_V1", "IMAGENET1K_V2"
_RESNET = f"{_REFERENCES}#resnet"
_RESNEXT = f"{_REFERENCES}#resnext"
_WIDE = f"{_ISSUES}/pull/912#issue-445437439"
_NEW = f"{_ISSUES}/issues/3995#new-recipe"
_FIXRES = f"{_ISSUES}/issues/3995#new-recipe-with-fixres"
_NEW_RESNET50 = f"{_ISSUES}/issues/3995#issuecomment-1013906621"

_DIGITS = ZooEntry(
    name="digits_resnet26.DIGITS",
    is_default=True,
    architecture="digits_resnet26",
    num_classes=10,
    file_name="digits_resnet26-9a97caaa.safetensors",
    sha256_prefix="9a97caaa",
    url=None,
    data_file="digits.npz",
    preprocessing=Preprocessing(mean=(0.3053,), std=(0.3758,)),
    image_size=8,
    resize_size=8,
    published_top1=99.2,
    recipe="worker/zoo_entries/train_digits.py",
    licence="weights: MIT (this project); data: CC BY 4.0 (E. Alpaydin and C. Kaynak, Optical "
    "Recognition of Handwritten Digits, UCI Machine Learning Repository, doi:10.24432/C50P49; "
    "the test set, as in scikit-learn, values scaled to 0..255 and split anew)",
)

ZOO: tuple[ZooEntry, ...] = (
    _DIGITS,
    _torchvision("resnet18", _V1, "f37072fd", 69.758, _RESNET, default=True),
    _torchvision("resnet34", _V1, "b627a593", 73.314, _RESNET, default=True),
    _torchvision("resnet50", _V1, "0676ba61", 76.13, _RESNET),
    _torchvision("resnet50", _V2, "11ad3fa6", 80.858, _NEW_RESNET50, default=True),
    _torchvision("resnet101", _V1, "63fe2227", 77.374, _RESNET),
    _torchvision("resnet101", _V2, "cd907fc2", 81.886, _NEW, default=True),
    _torchvision("resnet152", _V1, "394f9c45", 78.312, _RESNET),
    _torchvision("resnet152", _V2, "f82ba261", 82.284, _NEW, default=True),
    _torchvision("resnext50_32x4d", _V1, "7cdf4587", 77.618, _RESNEXT),
    _torchvision("resnext50_32x4d", _V2, "1a0047aa", 81.198, _NEW, default=True),
    _torchvision("resnext101_32x8d", _V1, "8ba56ff5", 79.312, _RESNEXT),
    _torchvision("resnext101_32x8d", _V2, "110c445d", 82.834, _FIXRES, default=True),
    _torchvision("resnext101_64x4d", _V1, "173b62eb", 83.246, f"{_ISSUES}/pull/5935", default=True),
    _torchvision("wide_resnet50_2", _V1, "95faca4d", 78.468, _WIDE),
    _torchvision("wide_resnet50_2", _V2, "9ba9bcbe", 81.602, _FIXRES, default=True),
    _torchvision("wide_resnet101_2", _V1, "32ee1156", 78.848, _WIDE),
    _torchvision("wide_resnet101_2", _V2, "d733dc28", 82.51, _NEW, default=True),
)
"""All entries, in the order in which they are listed to users."""
