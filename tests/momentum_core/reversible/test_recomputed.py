"""`Recomputed` against the same modules without recomputation."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn

from momentum_core.errors import ReversibilityError
from momentum_core.reversible import Recomputed


def _modules() -> list[nn.Module]:
    torch.manual_seed(0)
    return [nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.3), nn.ReLU(inplace=True)]


@pytest.mark.parametrize("input_needs_grad", [True, False])
def test_values_gradients_and_statistics_are_those_of_the_modules(input_needs_grad):
    plain = nn.Sequential(*_modules())
    recomputed = Recomputed(*copy.deepcopy(list(plain)))
    results = []
    for network in (plain, recomputed):
        x = torch.randn(3, 2, 6, 6, generator=torch.Generator().manual_seed(1))
        x.requires_grad_(input_needs_grad)
        torch.manual_seed(9)
        output = network(x)
        torch.rand(7)  # somebody draws between the passes
        output.square().sum().backward()
        grads = [p.grad for p in network.parameters()] + ([x.grad] if input_needs_grad else [])
        results.append([output, *grads, *network.buffers(), torch.get_rng_state()])
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))


def test_frozen_modules_pass_the_gradient_on():
    recomputed = Recomputed(nn.Linear(3, 3).requires_grad_(False), nn.Tanh())
    x = torch.ones(2, 3, requires_grad=True)
    recomputed(x).sum().backward()
    (expected,) = torch.autograd.grad(recomputed.run(x).sum(), x)
    assert torch.equal(x.grad, expected)


def test_a_weight_that_changes_before_backward_is_an_error():
    recomputed = Recomputed(nn.Linear(3, 3))
    output = recomputed(torch.ones(2, 3))
    with torch.no_grad():
        recomputed[0].weight.add_(1)
    with pytest.raises(ReversibilityError, match="changed") as caught:
        output.sum().backward()
    assert caught.value.code == "changed_before_backward"


def _through_data(recomputed: Recomputed) -> None:
    recomputed[0].weight.data.add_(1)


def _by_a_fused_optimizer(recomputed: Recomputed) -> None:
    for parameter in recomputed.parameters():
        parameter.grad = torch.ones_like(parameter)
    torch.optim.Adam(recomputed.parameters(), lr=0.1, fused=True).step()


@pytest.mark.parametrize("change", [_through_data, _by_a_fused_optimizer])
def test_a_weight_that_changes_unseen_is_found_out(change: Callable[[Recomputed], None]) -> None:
    recomputed = Recomputed(nn.Linear(3, 3), nn.Tanh())
    output = recomputed(torch.ones(2, 3))
    change(recomputed)
    with pytest.raises(ReversibilityError, match="recomputed Linear, Tanh: ") as caught:
        output.sum().backward()
    assert caught.value.code in ("not_deterministic", "changed_before_backward")


def test_what_the_caller_writes_into_the_output_is_no_change() -> None:
    recomputed = Recomputed(nn.Linear(3, 3))
    output = recomputed(torch.ones(2, 3))
    output.detach().zero_()
    output.sum().backward()
    assert torch.equal(recomputed[0].weight.grad, torch.full((3, 3), 2.0))


def test_a_gradient_of_the_gradient_is_refused() -> None:
    x = torch.ones(2, 3, requires_grad=True)
    with pytest.raises(ReversibilityError, match="create_graph=True") as caught:
        torch.autograd.grad(Recomputed(nn.Linear(3, 3))(x).sum(), x, create_graph=True)
    assert caught.value.code == "double_backward"


def test_freezing_between_the_passes_is_refused() -> None:
    recomputed = Recomputed(nn.Linear(3, 3), nn.Tanh())
    output = recomputed(torch.ones(2, 3))
    recomputed[0].weight.requires_grad_(False)
    with pytest.raises(ReversibilityError, match="requires_grad was switched off"):
        output.sum().backward()


def test_without_gradients_nothing_is_recorded():
    recomputed = Recomputed(nn.Linear(3, 3))
    with torch.no_grad():
        assert recomputed(torch.ones(2, 3)).grad_fn is None
