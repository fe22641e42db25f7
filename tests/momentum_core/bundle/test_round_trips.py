"""Convert, save, load in a fresh process: the same bits; train, restore: the original's weights."""

from __future__ import annotations

import copy
import subprocess
import sys

import pytest
import timm
import torch
from torch import nn
from torchvision import models

from momentum_core import BundleDetails, ConversionConfig, calibrate, convert, load, save
from momentum_core.architectures import build
from momentum_core.bundle import read_config
from momentum_core.conversion import load_original_state_dict, original_state_dict, plan_of, restore
from momentum_core.errors import ConversionError
from tests.conftest import ROOT
from tests.momentum_core.bundle.own_models import OwnModel

QUICK = ConversionConfig(gamma=0.5, plan_memory=False)


def images(*shape: int) -> torch.Tensor:
    return torch.randn(2, *shape, generator=torch.Generator().manual_seed(3))


def build_own() -> nn.Module:
    return OwnModel()


def build_mnasnet() -> nn.Module:
    return models.mnasnet0_5(num_classes=7)


def build_timm() -> nn.Module:
    return timm.create_model("vit_tiny_patch16_224", pretrained=False, num_classes=3)


def build_cifar() -> nn.Module:
    return build("cifar_resnet20", num_classes=4)


CASES = {
    "own": (
        build_cifar,
        images(3, 32, 32),
        BundleDetails(architecture="cifar_resnet20", num_classes=4),
    ),
    "torchvision": (
        build_mnasnet,
        images(3, 64, 64),
        BundleDetails(architecture="torchvision:mnasnet0_5", num_classes=7),
    ),
    "timm": (
        build_timm,
        images(3, 224, 224),
        BundleDetails(architecture="timm:vit_tiny_patch16_224", num_classes=3),
    ),
    "given": (build_own, images(3, 5), BundleDetails()),
}


def outputs_of_a_fresh_process(folder, x: torch.Tensor, *, own: bool):
    torch.save(x, folder / "x.pt")
    program = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "from tests.momentum_core.bundle.own_models import save_outputs\n"
        f"save_outputs({str(folder)!r}, own={own})"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT)
    return torch.load(folder / "y.pt")


@pytest.mark.parametrize(
    ("case", "dtype"),
    [
        *((case, torch.float32) for case in CASES),
        ("own", torch.bfloat16),
        ("given", torch.bfloat16),
    ],
)
def test_a_fresh_process_gives_the_same_bits(tmp_path, case, dtype):
    make, x, details = CASES[case]
    torch.manual_seed(0)
    model = convert(make().to(dtype), x.to(dtype), QUICK).eval()
    save(model, tmp_path / "bundle", details)
    assert read_config(tmp_path / "bundle").plan == plan_of(model)
    plain, with_gradients = outputs_of_a_fresh_process(tmp_path, x.to(dtype), own=case == "given")
    with torch.no_grad():
        assert torch.equal(plain, model(x.to(dtype)))
    assert torch.equal(with_gradients, model(x.to(dtype)))
    assert plain.dtype == dtype


@pytest.mark.parametrize("case", ["own", "given"])
def test_a_calibrated_model_and_its_trained_rule_give_the_same_bits(tmp_path, case):
    make, x, details = CASES[case]
    torch.manual_seed(0)
    network = make().eval()
    plan = plan_of(convert(network, x, QUICK))
    batches = [torch.randn(4, *x.shape[1:]) for _ in range(8)]
    result = calibrate(plan, network, batches)
    model = convert(network, plan=result.plan).eval()
    assert any(result.plan.is_calibrated(run) for run in result.plan.runs)
    stack = model.get_submodule(f"{result.plan.runs[0].name}.stack")
    with torch.no_grad():
        stack.coefficients *= 1.01
    save(model, tmp_path / "bundle", details)
    plain, with_gradients = outputs_of_a_fresh_process(tmp_path, x, own=case == "given")
    with torch.no_grad():
        assert torch.equal(plain, model(x))
        assert not torch.equal(plain, convert(network, plan=result.plan).eval()(x))
    assert torch.equal(with_gradients, model(x))


@pytest.mark.parametrize("case", CASES)
def test_three_training_steps_later_the_original_architecture_takes_the_weights(tmp_path, case):
    make, x, details = CASES[case]
    torch.manual_seed(0)
    before = make()
    model = convert(before, x, QUICK).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    for _ in range(3):
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
    fresh = make()
    fresh.load_state_dict(restore(model).state_dict(), strict=True)
    assert list(fresh.state_dict()) == list(before.state_dict())
    weights = original_state_dict(model)
    assert all(torch.equal(one, weights[name]) for name, one in fresh.state_dict().items())
    assert all(
        not torch.equal(one, dict(before.named_parameters())[name])
        for name, one in fresh.named_parameters()
        if "bias" not in name
    )
    save(model, tmp_path / "bundle", details)
    loaded = load(tmp_path / "bundle", original=make() if case == "given" else None)
    with torch.no_grad():
        assert torch.equal(loaded(x), model.eval()(x))


def test_the_module_given_as_original_stays_as_it_is(tmp_path):
    make, x, details = CASES["given"]
    save(convert(make(), x, QUICK), tmp_path / "bundle", details)
    given = make()
    before = copy.deepcopy(given.state_dict())
    load(tmp_path / "bundle", original=given)
    assert all(torch.equal(one, before[name]) for name, one in given.state_dict().items())


def test_formats_of_modules_travel_with_the_weights():
    """MNASNet refuses weights without a format, and rebuilds its stem for the first one."""
    x = images(3, 64, 64)
    network = build_mnasnet()
    converted = convert(network, x, QUICK)
    weights = original_state_dict(converted)
    assert weights._metadata == network.state_dict()._metadata
    build_mnasnet().load_state_dict(weights, strict=True)
    other = convert(build_mnasnet(), plan=plan_of(converted))
    load_original_state_dict(other, weights)
    with torch.no_grad():
        assert torch.equal(other.eval()(x), converted.eval()(x))


@pytest.mark.filterwarnings("ignore:A new version of MNASNet:UserWarning")
def test_an_mnasnet_of_the_first_format_comes_back_with_its_own_stem(tmp_path):
    x = images(3, 64, 64)
    network = build_mnasnet()
    network.load_state_dict(first_format(network), strict=True)
    assert network.layers[0].out_channels == 32
    model = convert(network, x, QUICK).eval()
    save(model, tmp_path / "bundle", BundleDetails(num_classes=7))
    with torch.no_grad():
        assert torch.equal(load(tmp_path / "bundle", original=build_mnasnet())(x), model(x))


def first_format(network: nn.Module) -> dict[str, torch.Tensor]:
    """Return weights as the first release of MNASNet had them: all sizes with one stem."""
    state = network.state_dict()
    wide = models.mnasnet1_0().state_dict()
    stem = {name: one for name, one in wide.items() if name.startswith(STEM)}
    state.update(stem)
    state["layers.8.0.layers.6.weight"] = torch.randn(16, 48, 1, 1) * 0.1
    state._metadata[""]["version"] = 1
    return state


STEM = (
    *(f"layers.{i}." for i in range(8)),
    *(f"layers.8.0.layers.{i}." for i in (0, 1, 3, 4)),
)


class Record(tuple):
    """A container that a file cannot describe."""


class Recording(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x):
        return Record((x + torch.tanh(self.linear(x)),))


def test_a_block_that_returns_an_object_of_a_class_is_refused_when_saving(tmp_path):
    from torch.utils import _pytree as pytree

    pytree.register_pytree_node(
        Record, lambda one: (list(one), None), lambda leaves, _: Record(leaves)
    )

    class Chain(nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks = nn.ModuleList(Recording() for _ in range(3))

        def forward(self, x):
            for block in self.blocks:
                (x,) = block(x)
            return x

    try:
        model = convert(Chain(), torch.randn(2, 4), QUICK)
        with pytest.raises(ConversionError, match="Record, which a file cannot describe"):
            save(model, tmp_path / "bundle", BundleDetails())
        assert list(tmp_path.iterdir()) == []
    finally:
        pytree._deregister_pytree_node(Record)
