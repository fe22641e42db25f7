"""Converted models in other runtimes: the outputs of torch, whatever the batch."""

from __future__ import annotations

import sys

import onnxruntime
import pytest
import timm
import torch
from torch import nn
from torchvision import models

from momentum_core import ConversionConfig, convert, export_onnx, export_program
from momentum_core.conversion import plan_of
from momentum_core.errors import BundleError, ConversionError
from tests.momentum_core.bundle.own_models import OwnModel

QUICK = ConversionConfig(gamma=0.5, plan_memory=False)


def images(num_images: int, side: int) -> torch.Tensor:
    shape = (num_images, 3, side, side)
    return torch.randn(shape, generator=torch.Generator().manual_seed(num_images))


def resnet50() -> nn.Module:
    """With statistics of what its norms see: others let activations grow without bound."""
    torch.manual_seed(0)
    network = models.resnet50()
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None
    with torch.no_grad():
        network.train()(images(16, 64))
    return network.eval()


def vit_small() -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model("vit_small_patch16_224", pretrained=False).eval()


@pytest.mark.parametrize("build", [resnet50, vit_small])
def test_onnxruntime_gives_the_outputs_of_torch_for_any_batch(tmp_path, build):
    model = convert(build(), images(2, 224), QUICK)
    difference = export_onnx(model, tmp_path / "model.onnx", images(2, 224))
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
    more = images(3, 224)
    session = onnxruntime.InferenceSession(
        tmp_path / "model.onnx", providers=["CPUExecutionProvider"]
    )
    (found,) = session.run(None, {session.get_inputs()[0].name: more.numpy()})
    with torch.no_grad():
        expected = model.eval()(more)
    assert expected.abs().max() > 0.1
    assert (torch.from_numpy(found) - expected).abs().max() <= 1e-4
    assert 0 < difference <= 1e-4


@pytest.mark.parametrize("example", [(torch.randn(2, 3, 5),), {"x": torch.randn(2, 3, 5)}])
def test_a_program_is_for_any_batch_and_leaves_the_model_as_it_is(example):
    torch.manual_seed(0)
    model = convert(OwnModel(), torch.randn(2, 3, 5), QUICK).train()
    program = export_program(model, example).module()
    x = torch.randn(7, 3, 5)
    assert model.training
    assert plan_of(model).runs
    with torch.no_grad():
        found = program(x=x) if isinstance(example, dict) else program(x)
        torch.testing.assert_close(found, model.eval()(x))


def test_outputs_that_differ_leave_no_file(tmp_path):
    model = convert(OwnModel(), torch.randn(2, 3, 5), QUICK)
    with pytest.raises(BundleError, match="more than 0; try"):
        export_onnx(model, tmp_path / "model.onnx", torch.randn(2, 3, 5), tolerance=0)
    assert list(tmp_path.iterdir()) == []


class Deciding(OwnModel):
    def forward(self, x):
        y = super().forward(x)
        return y if y.sum() > 0 else -y


def test_what_torch_cannot_follow_is_said(tmp_path):
    model = convert(Deciding(), torch.randn(2, 3, 5), QUICK)
    with pytest.raises(BundleError, match="Deciding cannot be exported"):
        export_program(model, torch.randn(2, 3, 5))
    with pytest.raises(ConversionError, match="not a converted model"):
        export_program(OwnModel(), torch.randn(2, 3, 5))


def test_a_missing_library_is_named_with_its_remedy(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    model = convert(OwnModel(), torch.randn(2, 3, 5), QUICK)
    with pytest.raises(BundleError, match=r"onnxscript.*momentum-zoo\[export\]"):
        export_onnx(model, tmp_path / "model.onnx", torch.randn(2, 3, 5))
