"""What counts as a run, one reason at a time, on models small enough to see through."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from momentum_core.conversion import ConversionPlan, convert, plan_conversion
from momentum_core.errors import ConversionError

X = torch.randn(2, 4, generator=torch.Generator().manual_seed(0))


class Residual(nn.Module):
    """x + f(x)."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.f = nn.Sequential(nn.Linear(width, width), nn.Tanh())

    def forward(self, x: Tensor) -> Tensor:
        return x + self.f(x)


class Looped(nn.Module):
    """Blocks in a list, called by `step` one after the other."""

    def __init__(self, *blocks: nn.Module) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks or (Residual(), Residual(), Residual()))

    def forward(self, x: Tensor) -> Tensor:
        for index, block in enumerate(self.blocks):
            x = self.step(index, block, x)
        return x

    def step(self, index: int, block: nn.Module, x: Tensor) -> Tensor:
        return block(x)


def runs(plan: ConversionPlan) -> list[tuple[str, ...]]:
    return [run.blocks for run in plan.runs]


def reason(model: nn.Module, name: str, x: Tensor = X) -> str:
    """Return why a block stays, whether or not others are converted."""
    try:
        plan = plan_conversion(model, x)
    except ConversionError as error:
        return f"{error.code}: {error}"
    return {one.name: one.reason for one in plan.unconverted}[name]


def test_blocks_in_a_sequence_and_in_a_loop_are_runs():
    assert runs(plan_conversion(nn.Sequential(Residual(), Residual()), X)) == [("0", "1")]
    assert runs(plan_conversion(Looped(), X)) == [("blocks.0", "blocks.1", "blocks.2")]


class PostNorm(Residual):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(
            self.norm(x.reshape(2, 2, 2).flatten(1) + nn.functional.dropout(self.f(x)))
        )


def test_the_identity_path_may_lead_through_norm_activation_and_reshape():
    assert len(runs(plan_conversion(Looped(PostNorm(), PostNorm()), X))) == 1


class NoSkip(Residual):
    def forward(self, x: Tensor) -> Tensor:
        return self.f(x)


class Scaled(Residual):
    def forward(self, x: Tensor) -> Tensor:
        return 0.5 * x + self.f(x)


class Positioned(Residual):
    """Adds something to its input that is not computed from it."""

    def __init__(self) -> None:
        super().__init__()
        self.position = nn.Parameter(torch.randn(4))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.position


@pytest.mark.parametrize("block", [NoSkip, Scaled, Positioned, nn.Identity, nn.ReLU])
def test_what_is_not_its_input_plus_something_computed_from_it_is_no_block(block):
    with pytest.raises(ConversionError, match="no residual block") as caught:
        plan_conversion(Looped(block(), block(), block()), X)
    assert caught.value.code == "not_convertible"


class Tapped(Looped):
    """Uses what the first block returned once more at the end."""

    def forward(self, x: Tensor) -> Tensor:
        first = self.blocks[0](x)
        return self.blocks[2](self.blocks[1](first)) + first


def test_a_block_whose_output_is_used_elsewhere_ends_a_run():
    plan = plan_conversion(Tapped(), X)
    assert runs(plan) == [("blocks.1", "blocks.2")]
    assert [(one.name, one.reason) for one in plan.unconverted] == [
        ("blocks.0", "a run of one block saves nothing")
    ]


class Returned(Looped):
    """Returns every state."""

    def forward(self, x: Tensor) -> list[Tensor]:
        states = [x]
        for block in self.blocks:
            states.append(block(states[-1]))
        return states


def test_states_that_the_model_returns_stay():
    assert "a run of one block" in reason(Returned(), "blocks.0")


class Shared(Looped):
    def forward(self, x: Tensor) -> Tensor:
        return self.blocks[1](self.blocks[0](self.blocks[0](x)))


def test_a_module_that_is_called_twice_stays():
    assert "called 2 times" in reason(Shared(), "blocks.0")


class InPlace(Residual):
    def forward(self, x: Tensor) -> Tensor:
        return self.f(x.relu_()) + x


def test_a_block_that_writes_into_its_input_stays():
    x = X.clone()
    assert "writes into its own input" in reason(Looped(InPlace(), InPlace()), "blocks.0", x)


class Deciding(Residual):
    def forward(self, x: Tensor) -> Tensor:
        return x + self.f(x) if x.sum() > -1e9 else x


def test_a_block_that_decides_by_its_input_stays():
    assert "depends on the values" in reason(Looped(Deciding(), Deciding()), "blocks.0")


class DecidingParent(Looped):
    def step(self, index: int, block: nn.Module, x: Tensor) -> Tensor:
        return block(x) if x.norm() > 0 else x


def test_blocks_between_which_the_model_decides_stay():
    with pytest.raises(ConversionError, match="no two residual blocks"):
        plan_conversion(DecidingParent(), X)


class Dropping(Looped):
    """Leaves blocks out at random in training (layer drop)."""

    def step(self, index: int, block: nn.Module, x: Tensor) -> Tensor:
        return x if self.training and torch.rand([]) < 0.1 else block(x)


def test_layer_drop_is_found_though_it_hardly_ever_happens():
    assert "layer drop" in reason(Dropping(), "blocks.0")


class Masked(Residual):
    def forward(
        self, x: Tensor, mask: Tensor, *, scale: float = 1.0
    ) -> tuple[Tensor, None, Tensor]:
        return x + self.f(x) * mask * scale, None, mask


class WithMasks(nn.Module):
    """Blocks with further arguments, keywords and tuples, as in transformers."""

    def __init__(self, *scales: float) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Masked() for _ in scales)
        self.scales = scales

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        for block, scale in zip(self.blocks, self.scales, strict=True):
            x, nothing, same = block(mask=mask, x=x, scale=scale)
            assert nothing is None
            assert same is mask
        return x


def test_constant_further_arguments_are_passed_on_and_tuples_come_back():
    model = WithMasks(2.0, 2.0, 2.0)
    mask = torch.tensor([1.0, 0.0, 1.0, 1.0])
    converted = convert(model, (X, mask))
    assert runs(converted.plan) == [("blocks.0", "blocks.1", "blocks.2")]
    stored = copy.deepcopy(converted)
    stored.blocks[0].stack.backward_mode = "stored"
    gradients = []
    for network in (converted, stored):
        x = X.clone().requires_grad_()
        network(x, mask).sum().backward()
        gradients.append((x.grad, network.blocks[0].stack.blocks[2].block.f[0].weight.grad))
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))


def test_a_parent_may_still_ask_a_block_for_its_attributes():
    converted = convert(Looped(), X)
    assert [tuple(block.f[0].weight.shape) for block in converted.blocks] == [(4, 4)] * 3
    assert converted.blocks[1].f is converted.blocks[0].stack.blocks[1].f
    with pytest.raises(AttributeError):
        _ = converted.blocks[1].nonsense


def test_arguments_that_change_split_a_run():
    plan = plan_conversion(WithMasks(2.0, 2.0, 3.0, 3.0), (X, torch.ones(4)))
    assert runs(plan) == [("blocks.0", "blocks.1"), ("blocks.2", "blocks.3")]


class Outer(nn.Module):
    """Two residual halves in one module: finer blocks make longer runs."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = Residual(), Residual()

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x))


def test_the_finest_blocks_win_where_they_make_the_longer_run():
    assert runs(plan_conversion(Looped(Outer(), Outer()), X)) == [
        ("blocks.0.first", "blocks.0.second", "blocks.1.first", "blocks.1.second")
    ]


def test_the_model_is_left_as_it_was():
    model = Looped(Residual(), Residual()).train()
    model.add_module("norm", nn.BatchNorm1d(4))
    before = copy.deepcopy(model.state_dict())
    random_state = torch.get_rng_state()
    plan_conversion(model, X)
    assert model.training
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(torch.equal(model.state_dict()[key], before[key]) for key in before)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_an_input_that_the_model_does_not_take_is_named_with_the_module():
    with pytest.raises(ConversionError, match=r"shape \(2, 5\) in blocks\.0\.f\.0") as caught:
        plan_conversion(Looped(), torch.zeros(2, 5))
    assert caught.value.code == "not_traceable"


def test_a_training_mode_that_fails_is_noted_and_not_fatal():
    class OnlyEvaluates(Looped):
        def forward(self, x: Tensor) -> Tensor:
            if self.training:
                raise RuntimeError("needs targets")
            return super().forward(x)

    plan = plan_conversion(OnlyEvaluates(), X)
    assert "needs targets" in plan.notes[0]
    assert "note: its training mode" in str(plan)
