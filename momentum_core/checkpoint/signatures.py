"""Names and shapes of the weights of every architecture that is known, without torch.

A test builds each architecture and compares its `state_dict` with this table, so the two cannot
drift apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from typing import ClassVar

from momentum_core.errors import ArchitectureError

Shapes = dict[str, tuple[int, ...]]

IMAGENET_STEM = 64
IMAGENET_SIDE = 224
CIFAR_WIDTHS = (16, 32, 64)


@dataclass(frozen=True, slots=True)
class _ResNet:
    """torchvision's `ResNet` (He et al. 2015, Xie et al. 2016, Zagoruyko and Komodakis 2016)."""

    head: ClassVar = "fc"
    in_channels: ClassVar = 3
    image_side: ClassVar = IMAGENET_SIDE
    bottleneck: bool
    depths: tuple[int, int, int, int]
    groups: int = 1
    width_per_group: int = 64

    def shapes(self, num_classes: int) -> Shapes:
        shapes: Shapes = {"conv1.weight": (IMAGENET_STEM, 3, 7, 7)}
        shapes |= _batch_norm("bn1", IMAGENET_STEM)
        expansion = 4 if self.bottleneck else 1
        channels = IMAGENET_STEM
        for stage, depth in enumerate(self.depths):
            planes = IMAGENET_STEM << stage
            for index in range(depth):
                prefix = f"layer{stage + 1}.{index}"
                shapes |= self._block(prefix, channels, planes)
                if index == 0 and (stage > 0 or channels != planes * expansion):
                    shapes[f"{prefix}.downsample.0.weight"] = (planes * expansion, channels, 1, 1)
                    shapes |= _batch_norm(f"{prefix}.downsample.1", planes * expansion)
                channels = planes * expansion
        return shapes | {
            f"{self.head}.weight": (num_classes, channels),
            f"{self.head}.bias": (num_classes,),
        }

    def _block(self, prefix: str, channels: int, planes: int) -> Shapes:
        if not self.bottleneck:
            return _basic_block(prefix, channels, planes)
        width = planes * self.width_per_group // 64 * self.groups
        return {
            f"{prefix}.conv1.weight": (width, channels, 1, 1),
            **_batch_norm(f"{prefix}.bn1", width),
            f"{prefix}.conv2.weight": (width, width // self.groups, 3, 3),
            **_batch_norm(f"{prefix}.bn2", width),
            f"{prefix}.conv3.weight": (planes * 4, width, 1, 1),
            **_batch_norm(f"{prefix}.bn3", planes * 4),
        }


@dataclass(frozen=True, slots=True)
class SmallResNetForm:
    """Residual network for small images (He et al. 2015, 4.2): `depth` blocks in each stage."""

    head: ClassVar = "linear"
    depth: int
    in_channels: int = 3
    widths: tuple[int, ...] = CIFAR_WIDTHS
    image_side: int = 32

    def shapes(self, num_classes: int) -> Shapes:
        """Return the weights' shapes by name, in the order of the `state_dict`."""
        channels = self.widths[0]
        shapes: Shapes = {"conv1.weight": (channels, self.in_channels, 3, 3)}
        shapes |= _batch_norm("bn1", channels)
        for stage, planes in enumerate(self.widths):
            for index in range(self.depth):
                shapes |= _basic_block(f"layer{stage + 1}.{index}", channels, planes)
                channels = planes
        return shapes | {
            f"{self.head}.weight": (num_classes, channels),
            f"{self.head}.bias": (num_classes,),
        }


def _batch_norm(prefix: str, channels: int) -> Shapes:
    names = ("weight", "bias", "running_mean", "running_var")
    return {
        **{f"{prefix}.{name}": (channels,) for name in names},
        f"{prefix}.num_batches_tracked": (),
    }


def _basic_block(prefix: str, channels: int, planes: int) -> Shapes:
    return {
        f"{prefix}.conv1.weight": (planes, channels, 3, 3),
        **_batch_norm(f"{prefix}.bn1", planes),
        f"{prefix}.conv2.weight": (planes, planes, 3, 3),
        **_batch_norm(f"{prefix}.bn2", planes),
    }


_TABLE: dict[str, _ResNet | SmallResNetForm] = {
    "resnet18": _ResNet(False, (2, 2, 2, 2)),
    "resnet34": _ResNet(False, (3, 4, 6, 3)),
    "resnet50": _ResNet(True, (3, 4, 6, 3)),
    "resnet101": _ResNet(True, (3, 4, 23, 3)),
    "resnet152": _ResNet(True, (3, 8, 36, 3)),
    "resnext50_32x4d": _ResNet(True, (3, 4, 6, 3), groups=32, width_per_group=4),
    "resnext101_32x8d": _ResNet(True, (3, 4, 23, 3), groups=32, width_per_group=8),
    "resnext101_64x4d": _ResNet(True, (3, 4, 23, 3), groups=64, width_per_group=4),
    "wide_resnet50_2": _ResNet(True, (3, 4, 6, 3), width_per_group=128),
    "wide_resnet101_2": _ResNet(True, (3, 4, 23, 3), width_per_group=128),
    "cifar_resnet20": SmallResNetForm(3),
    "cifar_resnet32": SmallResNetForm(5),
    "cifar_resnet44": SmallResNetForm(7),
    "cifar_resnet56": SmallResNetForm(9),
    "cifar_resnet110": SmallResNetForm(18),
    "digits_resnet26": SmallResNetForm(6, in_channels=1, widths=(16, 32), image_side=8),
}

ARCHITECTURES: tuple[str, ...] = tuple(_TABLE)
"""Names of the architectures, in the order in which they are listed to users."""


def shapes(name: str, num_classes: int) -> Shapes:
    """Return the weights' shapes by name, in the order of the architecture's `state_dict`.

    Args:
        name: one of `ARCHITECTURES`.
        num_classes: outputs of the last layer.

    Raises:
        ArchitectureError: `unknown_architecture`.
    """
    return _network(name).shapes(num_classes)


def input_shape(name: str) -> tuple[int, int]:
    """Return the channels and the usual side, in pixels, of an architecture's images.

    Raises:
        ArchitectureError: `unknown_architecture`.
    """
    network = _network(name)
    return network.in_channels, network.image_side


def small_resnet_form(name: str) -> SmallResNetForm | None:
    """Return the form of a network for small images, or None if `name` is one for ImageNet.

    Raises:
        ArchitectureError: `unknown_architecture`.
    """
    network = _network(name)
    return network if isinstance(network, SmallResNetForm) else None


def head(name: str) -> str:
    """Return the name of the tensor whose first dimension is the number of classes.

    Raises:
        ArchitectureError: `unknown_architecture`.
    """
    return f"{_network(name).head}.weight"


def is_buffer(name: str) -> bool:
    """Whether a tensor is a statistic that no gradient trains."""
    return name.endswith((".running_mean", ".running_var", ".num_batches_tracked"))


def _network(name: str) -> _ResNet | SmallResNetForm:
    if name not in _TABLE:
        raise unknown_architecture(name)
    return _TABLE[name]


def unknown_architecture(name: object) -> ArchitectureError:
    """Make the error for a name that is not in the table, with the nearest one that is."""
    near = get_close_matches(str(name).lower()[:80], ARCHITECTURES, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(ARCHITECTURES)}"
    return ArchitectureError(
        f"there is no architecture {ascii(name)[:82]}; {hint}", code="unknown_architecture"
    )
