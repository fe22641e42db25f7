"""Calibration brings answers nearer to the original's, and touches nothing but the rule."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from fractions import Fraction

import pytest
import torch
from torch import nn

from momentum_core import ConversionConfig, convert
from momentum_core.bundle import BundleDetails, read_config, save_weights
from momentum_core.calibration import calibrate
from momentum_core.config import CalibrationConfig
from momentum_core.conversion import RunRule, original_state_dict, plan_conversion, restore
from momentum_core.errors import ConversionError, DataError
from momentum_core.reversible import MomentumStack
from tests.conftest import ROOT


def _agreement(digits, plan) -> float:
    with torch.no_grad():
        ours = convert(digits.network, plan=plan).eval()(digits.others).argmax(dim=1)
        return float((ours == digits.network(digits.others).argmax(dim=1)).double().mean())


def test_answers_on_images_it_never_saw_come_nearer(digits, at_nine_tenths):
    result, plain = at_nine_tenths, digits.plan(ConversionConfig(gamma=0.9))
    assert result.kept
    assert result.after.divergence < 0.3 * result.before.divergence
    before, after = _agreement(digits, plain), _agreement(digits, result.plan)
    assert 1 - after < 0.5 * (1 - before)


def test_what_is_reported_is_what_the_converted_model_does(digits, at_nine_tenths):
    """The held-back batches are the last quarter."""
    held = torch.cat(digits.batches[-2:])
    with torch.no_grad():
        ours = convert(digits.network, plan=at_nine_tenths.plan).eval()(held)
        theirs = digits.network(held)
    same = ours.argmax(dim=1) == theirs.argmax(dim=1)
    difference = theirs.softmax(1) * (theirs.log_softmax(1) - ours.log_softmax(1))
    assert at_nine_tenths.after.num_answers == len(held)
    assert at_nine_tenths.after.agreement == pytest.approx(float(same.double().mean()))
    assert at_nine_tenths.after.divergence == pytest.approx(
        float(difference.sum(1).mean()), rel=1e-3
    )


@pytest.mark.parametrize("form", ["scalar", "channel", "offset"])
def test_every_form_helps_and_has_the_numbers_it_names(digits, form):
    result = digits.calibrated(0.8, form)
    rule = result.plan.runs[0].rule
    assert result.kept
    assert result.after.divergence < result.before.divergence
    assert isinstance(rule.coefficients[0], float if form == "scalar" else tuple)
    assert (rule.offsets is not None) == (form == "offset")
    assert rule.predictors is None


def test_the_original_is_as_it_was(digits):
    network = copy.deepcopy(digits.network).train()
    network.layer1.eval()
    before = copy.deepcopy(network.state_dict())
    flags = [module.training for module in network.modules()]
    calibrate(
        digits.plan(ConversionConfig(gamma=0.5)),
        network,
        digits.batches,
        CalibrationConfig(max_steps=2),
    )
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())
    assert [module.training for module in network.modules()] == flags
    assert all(p.requires_grad and p.grad is None for p in network.parameters())
    assert not any(
        module._forward_hooks or module._forward_pre_hooks for module in network.modules()
    )


def test_the_same_batches_give_the_same_bits(digits, at_nine_tenths):
    rules = [
        [run.rule for run in one.plan.runs] for one in (digits.calibrated(0.9), at_nine_tenths)
    ]
    assert rules[0] == rules[1]


def test_a_fit_that_does_not_help_is_dropped(digits):
    """Batches to judge with that have nothing to do with those to fit."""
    noise = [
        30 * torch.randn(64, 1, 8, 8, generator=torch.Generator().manual_seed(k)) for k in (0, 1)
    ]
    plan = digits.plan(ConversionConfig(gamma=1 / 64))
    config = CalibrationConfig(max_steps=4, learning_rate=1.0)
    result = calibrate(plan, digits.network, [*noise, *digits.batches[:1]], config)
    assert not result.kept
    assert result.plan == plan
    assert result.after == result.before
    assert "dropped" in str(result)


def test_steps_that_make_it_worse_are_not_kept(digits):
    plan = digits.plan(ConversionConfig(gamma=0.9))
    wild = CalibrationConfig(max_steps=4, learning_rate=1.0)
    result = calibrate(plan, digits.network, digits.batches, wild)
    still = calibrate(plan, digits.network, digits.batches, CalibrationConfig(max_steps=0))
    assert (result.num_steps, result.best_step) == (4, 0)
    assert result.plan == still.plan


def test_a_calibrated_plan_comes_back_from_json(at_nine_tenths):
    plan = at_nine_tenths.plan
    stored = json.loads(json.dumps(plan.to_json()))
    assert plan.with_rules(RunRule.from_json(run) for run in stored["runs"]) == plan
    assert json.dumps(at_nine_tenths.to_json(), allow_nan=False)


def test_a_saved_calibrated_model_answers_the_same_in_a_fresh_process(
    digits, at_nine_tenths, tmp_path
):
    model = convert(digits.network, plan=at_nine_tenths.plan).eval()
    details = BundleDetails(architecture="digits_resnet26", num_classes=10)
    save_weights(tmp_path / "model.safetensors", model, details)
    assert read_config(tmp_path).plan == at_nine_tenths.plan
    torch.save(digits.others, tmp_path / "x.pt")
    program = (
        "import sys, torch, momentum_core\n"
        "m = momentum_core.load(sys.argv[1])\n"
        "with torch.no_grad(): y = m(torch.load(sys.argv[1] + '/x.pt'))\n"
        "torch.save(y, sys.argv[1] + '/y.pt')"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True, cwd=ROOT)
    with torch.no_grad():
        assert torch.equal(torch.load(tmp_path / "y.pt"), model(digits.others))


def test_calibrated_gradients_are_those_of_stored_activations(digits, at_nine_tenths):
    losses, gradients = [], []
    for backward in ("reversible", "stored"):
        model = convert(digits.network, plan=at_nine_tenths.plan).train()
        for module in model.modules():
            if isinstance(module, MomentumStack):
                module.backward_mode = backward
        loss = model(digits.others[:16]).logsumexp(dim=1).sum()
        loss.backward()
        losses.append(loss)
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.requires_grad})
    assert torch.equal(*losses)
    assert gradients[0].keys() == gradients[1].keys()
    assert all(torch.equal(gradients[0][key], gradients[1][key]) for key in gradients[0])


def test_the_original_weights_come_back_from_a_calibrated_model(digits, at_nine_tenths):
    model = convert(digits.network, plan=at_nine_tenths.plan)
    original = digits.network.state_dict()
    for weights in (restore(model).state_dict(), original_state_dict(model)):
        assert weights.keys() == original.keys()
        assert all(torch.equal(weights[key], original[key]) for key in original)


def test_a_converted_model_can_be_given_in_place_of_its_plan(digits):
    plan = digits.plan(ConversionConfig(gamma=0.75))
    config = CalibrationConfig(max_steps=0)
    given = convert(digits.network, plan=plan)
    assert calibrate(given, digits.network, digits.batches[:2], config).plan == (
        calibrate(plan, digits.network, digits.batches[:2], config).plan
    )


class _Tokens(nn.Module):
    """Blocks over (images, tokens, channels), called with a mask and by keyword."""

    def __init__(self) -> None:
        super().__init__()
        layers = [
            nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True) for _ in range(4)
        ]
        self.layers = nn.ModuleList(layers)
        self.head = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> dict[str, torch.Tensor]:
        for layer in self.layers:
            x = layer(x, src_key_padding_mask=mask)
        return {"logits": self.head(x)}


def test_tokens_have_their_channels_last_and_every_token_is_an_answer():
    torch.manual_seed(0)
    model = _Tokens().eval()
    mask = torch.zeros(16, 6, dtype=torch.bool)
    batches = [{"x": torch.randn(16, 6, 8), "mask": mask} for _ in range(4)]
    plan = plan_conversion(model, batches[0], ConversionConfig(gamma=0.8))
    result = calibrate(plan, model, batches, CalibrationConfig(max_steps=8))
    rule = result.plan.runs[0].rule
    assert result.kept
    assert rule.channel_dim == -1
    assert len(rule.coefficients[0]) == 8
    assert result.after.num_answers == 96
    converted = convert(model, plan=result.plan)
    with torch.no_grad():
        assert converted(**batches[0])["logits"].shape == (16, 6, 5)


class _Unclear(nn.Module):
    """Maps as wide as they have channels, with layers that speak for either dimension."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.rows = nn.Conv2d(8, 8, 1), nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.rows(torch.relu(self.conv(x)))


def test_where_channels_cannot_be_told_blocks_get_one_number_each():
    torch.manual_seed(0)
    model = nn.Sequential(_Unclear(), _Unclear(), _Unclear(), nn.Flatten(), nn.Linear(512, 4))
    batches = [torch.randn(32, 8, 8, 8) for _ in range(4)]
    plan = plan_conversion(model, batches[0], ConversionConfig(gamma=0.8))
    result = calibrate(plan, model, batches, CalibrationConfig(max_steps=4))
    assert result.forms == ("scalar",)
    assert all(isinstance(c, float) for c in result.plan.runs[0].rule.coefficients)


def test_what_cannot_be_calibrated_is_refused(digits):
    plan = digits.plan(ConversionConfig())
    converted = convert(digits.network, plan=plan)
    with pytest.raises(DataError, match="at least 2 batches"):
        calibrate(plan, digits.network, digits.batches[:1])
    with pytest.raises(DataError, match="not finite"):
        calibrate(plan, digits.network, [torch.full((2, 1, 8, 8), torch.nan)] * 2)
    with pytest.raises(ConversionError, match="not a converted model"):
        calibrate(digits.network, digits.network, digits.batches)
    with pytest.raises(ConversionError, match="restore"):
        calibrate(converted, converted, digits.batches)
    with pytest.raises(ConversionError, match=r"layer1\.0"):
        calibrate(plan, nn.Linear(1, 1), digits.batches)


def test_each_gamma_is_that_of_its_run(digits):
    plan = digits.plan(ConversionConfig())
    gammas = (Fraction(1, 8), Fraction(7, 8))
    plan = plan.with_rules(
        plan.scheme_rule(run, gamma) for run, gamma in zip(plan.runs, gammas, strict=True)
    )
    result = calibrate(plan, digits.network, digits.batches, CalibrationConfig(max_steps=0))
    assert tuple(run.gamma for run in result.plan.runs) == gammas


@pytest.mark.parametrize("strategy", ["recompute", "recompute_whole", "store"])
def test_what_a_run_keeps_for_the_backward_pass_does_not_matter(digits, at_nine_tenths, strategy):
    plan = digits.plan(ConversionConfig(gamma=0.9))
    strategies = dict.fromkeys((run.name for run in plan.runs), strategy)
    config = ConversionConfig(gamma=0.9, strategies=strategies, max_slowdown=2)
    plan = digits.plan(config)
    result = calibrate(plan, digits.network, digits.batches, CalibrationConfig(max_steps=8))
    assert [plan.strategy_of(run) for run in result.plan.runs] == [strategy] * len(plan.runs)
    assert [run.rule for run in result.plan.runs] == [run.rule for run in at_nine_tenths.plan.runs]
