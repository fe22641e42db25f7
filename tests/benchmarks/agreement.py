"""Every torchvision classifier that can be converted: near its original at small gamma, linearly.

Random weights, evaluation mode, two images. At gamma 0 a converted network is the original, so its
output's relative difference must be small at 1/1024, and in proportion to gamma around it.
"""

from __future__ import annotations

import gc
import sys
import warnings
from collections.abc import Iterator
from itertools import pairwise

import torch
from torchvision import models

from momentum_core import ConversionConfig, plan_conversion
from momentum_core.errors import ConversionError
from tests.awake_networks import differences, wake
from tests.benchmarks.findings import Claim

GAMMAS = (1 / 256, 1 / 1024, 1 / 4096)
MOST = 0.02
"""Relative difference at gamma 1/1024."""

MOST_BENT = 1.25
"""Each quarter of gamma leaves a quarter of the difference, within this factor."""

_SIDES = {"maxvit_t": 224, "vit_h_14": 56}


def run() -> Iterator[Claim]:
    """Measure all of them, the smallest and the largest alike."""
    sys.stdout.write("| model | gamma 1/256 | 1/1024 | 1/4096 |\n| --- | --- | --- | --- |\n")
    measured, refused, largest, bent = 0, 0, 0.0, 0.0
    for name in models.list_models(module=models):
        found = measure(name)
        if found is None:
            refused += 1
            continue
        measured += 1
        largest = max(largest, found[1])
        bent = max(bent, bend(found))
        sys.stdout.write(f"| `{name}` | {' | '.join(f'{one:.5f}' for one in found)} |\n")
        sys.stdout.flush()
        gc.collect()
    sys.stdout.write(f"{measured} converted, {refused} refused with a reason\n")
    yield Claim("largest relative difference at gamma 1/1024", largest, MOST)
    yield Claim("furthest from a quarter for a quarter of gamma, as a factor", bent, MOST_BENT)


def measure(name: str) -> list[float] | None:
    """Return the relative differences of a model, one for each of `GAMMAS`; None: refused."""
    side = _SIDES.get(name, 64)
    options = {"image_size": side} if name.startswith("vit_") else {}
    if name in ("googlenet", "inception_v3"):
        options, side = {"init_weights": False}, 299
    example = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(side))
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = models.get_model(name, weights=None, **options).eval()
        try:
            plan = plan_conversion(model, example, ConversionConfig(plan_memory=False))
        except ConversionError:
            return None
        return differences(wake(model, example), plan, example, GAMMAS)


def bend(found: list[float]) -> float:
    """Return how far steps of a quarter are from leaving a quarter of the difference."""
    ratios = [one / other / 4 for one, other in pairwise(found)]
    return max(max(ratio, 1 / ratio) for ratio in ratios)
