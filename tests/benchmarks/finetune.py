"""Fine-tuning under a memory limit, the paper's experiment: ants and bees from ImageNet weights.

EfficientNet-Lite0 and its momentum form, the same recipe, several seeds; accuracy on the validation
photos, which choose nothing. Memory of a training step, and the largest batch that fits where the
original just fits with 2 images.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from statistics import mean

import torch

from momentum_core.comparison.budget import largest
from momentum_core.config import ConversionConfig, FinetuningConfig
from momentum_core.conversion import convert, plan_conversion
from momentum_core.memory import measure_side_by_side
from momentum_core.memory.batch_profile import profile_batches
from momentum_core.refinement import Finetuning, TrainingImages, evaluate, finetune, to_input
from tests.benchmarks.findings import Claim, Finding, Table
from tests.benchmarks.networks import LITE0, efficientnet_lite0, photos

GAMMA = 0.5
SEEDS = (0, 1, 2)
CONFIG = FinetuningConfig(max_steps=60)
ORIGINAL_BATCH = 2
"""The paper's: the original trains with 2 images, the momentum network with 4 (section 5.2)."""


def run() -> Iterator[Finding]:
    """Fine-tune, and compare."""
    network = efficientnet_lite0()
    data, (shown, truth) = TrainingImages(*photos("train")), photos("val")
    plan = plan_conversion(network, to_input(shown[:2], LITE0), ConversionConfig(gamma=GAMMA))
    _say(f"{plan}\n")
    percents: list[tuple[float, float]] = []
    for seed in SEEDS:
        momentum = convert(network, plan=plan)
        done = finetune(momentum, network, data, LITE0, CONFIG, test_images=shown, seed=seed)
        models = (done.original, done.momentum)
        original, own = (evaluate(one, shown, truth, LITE0).top1_percent for one in models)
        percents.append((original, own))
        _say(
            f"seed {seed}: original {original:.2f} % ({done.result.original.seconds:.0f} s), "
            f"momentum {own:.2f} % ({done.result.momentum.seconds:.0f} s) of {len(shown)} photos\n"
        )
    original, own = (mean(column) for column in zip(*percents, strict=True))
    rows = [
        (str(seed), *(f"{one:.2f} %" for one in pair))
        for seed, pair in zip(SEEDS, percents, strict=True)
    ]
    rows.append(("mean", f"{original:.2f} %", f"{own:.2f} %"))
    yield Table(
        "accuracy",
        f"Top-1 of {len(shown)} validation photos after {CONFIG.max_steps} steps",
        ("seed", "original", "momentum"),
        tuple(rows),
    )
    what = f"EfficientNet-Lite0, gamma {GAMMA}, mean of {len(SEEDS)} seeds"
    yield Claim(f"{what}: points below the original", original - own, 1.0)
    yield Claim(f"{what}: % of photos missed", 100 - own, 7.0)
    yield from _memory(done)


def _memory(done: Finetuning) -> Iterator[Finding]:
    models = (done.original.train(), done.momentum.train())
    batch = done.result.recipe.batch_size
    images, labels = torch.randn(batch, 3, 224, 224), torch.zeros(batch, dtype=torch.int64)
    measured = measure_side_by_side(models, images, labels, repeats=3)
    ratio = measured[1].peak_bytes / measured[0].peak_bytes
    yield Claim(f"peak memory over the original's, batch {batch}", ratio, 0.8)
    profiles = [profile_batches(model, images[:2], device="cpu") for model in models]
    budget = profiles[0].total_bytes(ORIGINAL_BATCH)
    sizes = [largest(lambda n, p=one: budget - p.total_bytes(n)) for one in profiles]
    yield Claim("largest batch of the original over ours, same memory", sizes[0] / sizes[1], 0.5)
    yield Table(
        "memory",
        f"A step of {batch} photos of 224 pixels, and the largest batch within the same memory",
        ("", "original", "momentum"),
        (
            ("peak, MiB", *(round(one.peak_bytes / 2**20) for one in measured)),
            (f"largest batch within {budget / 2**20:.0f} MiB", *sizes),
        ),
        note=(
            "The peak is measured: all that tensors hold above weights, gradients and input. The "
            f"memory is what the original needs for {ORIGINAL_BATCH} photos, with weights, "
            "gradients and the momentum of SGD; the batches are predicted."
        ),
    )


def _say(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
