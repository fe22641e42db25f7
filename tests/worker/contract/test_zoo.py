from __future__ import annotations

import re

import pytest
from torchvision.models import get_model_weights

from momentum_core.checkpoint.signatures import ARCHITECTURES
from momentum_core.errors import ArchitectureError
from worker.contract.zoo import ZOO, find_zoo_entry

TORCHVISION = tuple(name for name in ARCHITECTURES if re.match(r"(wide_)?resne(t|xt)\d+", name))
PUBLISHED = [(name, weights) for name in TORCHVISION for weights in get_model_weights(name)]


@pytest.mark.parametrize(("architecture", "weights"), PUBLISHED, ids=str)
def test_an_entry_says_what_torchvision_says(architecture, weights):
    entry = find_zoo_entry(f"{architecture}.{weights.name}")
    transform = weights.transforms()

    assert entry.url == weights.url
    assert entry.file_name == weights.url.rpartition("/")[2]
    assert entry.file_name.endswith(f"-{entry.sha256_prefix}.pth")
    assert len(entry.sha256_prefix) == 8
    assert entry.num_classes == len(weights.meta["categories"])
    assert entry.published_top1 == weights.meta["_metrics"]["ImageNet-1K"]["acc@1"]
    assert entry.recipe == weights.meta["recipe"]
    assert [entry.image_size] == transform.crop_size
    assert [entry.resize_size] == transform.resize_size
    assert list(entry.preprocessing.mean) == transform.mean
    assert list(entry.preprocessing.std) == transform.std


@pytest.mark.parametrize("architecture", TORCHVISION)
def test_the_name_alone_means_torchvisions_default(architecture):
    default = get_model_weights(architecture).DEFAULT
    assert find_zoo_entry(architecture).name == f"{architecture}.{default.name}"


def test_the_zoo_holds_every_published_entry_once_and_no_other():
    names = {f"{architecture}.{weights.name}" for architecture, weights in PUBLISHED}
    published = [entry.name for entry in ZOO if entry.url is not None]
    assert sorted(published) == sorted(names)
    assert all(entry.architecture in ARCHITECTURES for entry in ZOO)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("resnet51", "did you mean resnet5?0"),
        ("ResNet50", "did you mean resnet50"),
        ("resnet50.imagenet1k_v2", r"did you mean resnet50\.IMAGENET1K_V2"),
        ("\x1b[31m" + "z" * 5000, "GET /zoo lists"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest_one(name, hint):
    with pytest.raises(ArchitectureError, match=hint) as caught:
        find_zoo_entry(name)
    assert caught.value.code == "unknown_zoo_entry"
    assert "\x1b" not in str(caught.value)
    assert len(str(caught.value)) < 250
