"""Fine-tuning under a memory limit: accuracy against time, the paper's figure 8.

EfficientNet-Lite0 and its momentum form learn ants and bees, each with the largest batch that fits
where the original fits with 2 photos. Both see as many photos, so a seed gives the same accuracies
whenever it runs on a machine; only the seconds differ.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean

from torch import nn

from momentum_core.comparison.budget import MIB, largest
from momentum_core.comparison.methods import EACH_BLOCK, MOMENTUM, ORIGINAL, SQRT, methods_of
from momentum_core.config import ConversionConfig
from momentum_core.conversion import ConversionPlan, convert, plan_conversion
from momentum_core.memory.batch_profile import BatchProfile, profile_batches
from momentum_core.refinement import TrainingImages, to_input
from momentum_core.refinement.head import find_head, with_new_head
from tests.benchmarks.findings import Claim, Curve, Curves, Finding, Table
from tests.benchmarks.networks import LITE0, efficientnet_lite0, photos
from tests.benchmarks.timed_training import Budget, Data, Trained, train_in_turns

GAMMA = 0.5
SEEDS = (0, 1, 2)
ORIGINAL_BATCH = 2
"""The paper's: the original trains with 2 images, the momentum network with 4 (section 5.2)."""

BUDGET = Budget(shown=486, evaluations=9)
"""Of each training: about two epochs of the 243 photos. Less is enough for a trial."""

NUM_CLASSES = 2
LABELS = {
    ORIGINAL: "original",
    EACH_BLOCK: "original, each block checkpointed",
    SQRT: "original, groups of blocks checkpointed",
    MOMENTUM: "momentum",
}
NETWORKS = (ORIGINAL, MOMENTUM)
"""What is trained; checkpointing has the original's accuracy at the batch that it fits."""

TIME_NOTE = (
    "The paper's figure 8 has ResNet-152 at gamma 0.9, batches 2 and 4, photos of 500 pixels and a "
    "GPU with 3 GB: there momentum with the larger batch learns about twice as fast. Here are "
    "EfficientNet-Lite0 (whose ImageNet weights a package ships), gamma 1/2, 224 pixels and a CPU. "
    "A GPU is idle for much of a step with 2 photos; a CPU takes as long for each of 2 as for each "
    "of 6. So the larger batch gains no time here that would pay for computing activations again. "
    "For both networks: all weights learn, at 0.003 for 16 photos and in proportion to the batch, "
    "ten times that for the new head, to zero along a cosine; statistics of normalisation stay "
    "fixed; there is no calibration."
)
PHOTOS_NOTE = (
    "The same trainings by photos shown: what is left where a photo takes both as long. With the "
    "rate in proportion to the batch, either batch is meant to learn as much from a photo."
)


@dataclass(frozen=True, slots=True)
class Limit:
    """The memory there is, and what fits into it."""

    num_bytes: int
    batches: Mapping[str, int]
    """Largest batch of each method."""

    predicted_bytes: Mapping[str, int]
    """What a step with that batch takes."""

    @classmethod
    def of(cls, profiles: Mapping[str, BatchProfile]) -> Limit:
        """Return the limit at which the original just fits with its batch."""
        limit = profiles[ORIGINAL].total_bytes(ORIGINAL_BATCH)
        batches = {
            name: largest(lambda size, p=one: limit - p.total_bytes(size))  # type: ignore[misc]
            for name, one in profiles.items()
        }
        predicted = {name: one.total_bytes(batches[name]) for name, one in profiles.items()}
        return cls(limit, batches, predicted)


def run() -> Iterator[Finding]:
    """Fine-tune both within the memory, and compare."""
    network = efficientnet_lite0()
    data = Data(train=TrainingImages(*photos("train")), val=photos("val"), preprocessing=LITE0)
    example = to_input(data.val[0][:ORIGINAL_BATCH], LITE0)
    head = find_head(network, example)
    changed = with_new_head(network, head, NUM_CLASSES, seed=0)
    plan = plan_conversion(changed, example, ConversionConfig(gamma=GAMMA))
    limit = _limit(changed, plan, example)
    yield _fitting(limit)
    found: dict[str, list[Trained]] = {name: [] for name in NETWORKS}
    for seed in SEEDS:
        original = with_new_head(network, head, NUM_CLASSES, seed=seed)
        models = {ORIGINAL: original, MOMENTUM: convert(original, plan=plan)}
        trained = train_in_turns(models, head, data, BUDGET, limit.batches, seed=seed)
        for name, done in trained.items():
            found[name].append(done)
            percent, seconds = done.percents[-1], done.seconds[-1]
            sys.stdout.write(f"seed {seed}, {name}: {percent:.1f} % in {seconds:.0f} s\n")
            sys.stdout.flush()
    yield _curves(found, limit, by_time=True)
    yield _curves(found, limit, by_time=False)
    yield _table(found, limit)
    yield from _claims(found, limit)


def _limit(original: nn.Module, plan: ConversionPlan, example: object) -> Limit:
    """Predict a step of every method, with the recipe's optimizer, for every batch."""
    methods = methods_of(original, convert(original, plan=plan))
    return Limit.of(
        {
            one.name: profile_batches(one.model, example, device="cpu", optimizer="sgd_momentum")
            for one in methods
            if one.name in LABELS and one.model is not None
        }
    )


def _fitting(limit: Limit) -> Table:
    return Table(
        "fitting",
        f"Largest batch of EfficientNet-Lite0 in {limit.num_bytes / MIB:.0f} MiB",
        ("method", "largest batch", "MiB of its step"),
        tuple(
            (label, limit.batches[name], limit.predicted_bytes[name] / MIB)
            for name, label in LABELS.items()
        ),
        note=(
            f"The limit is what the original's step takes with {ORIGINAL_BATCH} photos, weights, "
            "gradients and optimizer included; predicted tensor by tensor. This network's runs "
            "have two or three blocks, so momentum saves little that checkpointing does not save "
            "here: most of its own saving is recomputation, too."
        ),
    )


def _curves(found: Mapping[str, Sequence[Trained]], limit: Limit, *, by_time: bool) -> Curves:
    return Curves(
        name="accuracy-by-time" if by_time else "accuracy-by-photos",
        title="Fine-tuning on ants and bees under one memory limit",
        x_title="seconds of training" if by_time else "photos shown",
        y_title="validation accuracy, %",
        curves=tuple(_curve(name, found[name], limit, by_time) for name in NETWORKS),
        note=TIME_NOTE if by_time else PHOTOS_NOTE,
    )


def _curve(name: str, trained: Sequence[Trained], limit: Limit, by_time: bool) -> Curve:
    return Curve(
        f"{LABELS[name]}, batch {limit.batches[name]}",
        _means([one.seconds if by_time else one.shown for one in trained]),
        _means([one.percents for one in trained]),
    )


def _table(found: Mapping[str, Sequence[Trained]], limit: Limit) -> Table:
    half = _half_time(found)
    return Table(
        "memory-limit",
        f"Fine-tuning in {limit.num_bytes / MIB:.0f} MiB, {BUDGET.shown} photos shown, "
        f"{len(SEEDS)} seeds",
        (
            *("network", "batch", "measured peak, MiB", "s per step", "photos per s", "steps"),
            *("s in all", f"% after {half:.0f} s", "from, to", "% at the end", "from, to (end)"),
        ),
        tuple(_row(name, found[name], limit, half) for name in NETWORKS),
        note=(
            f"{half:.0f} s is half the time of the shorter training; accuracy there is read on the "
            "line between two evaluations, while the learning rate is still high."
        ),
    )


def _row(
    name: str, trained: Sequence[Trained], limit: Limit, half: float
) -> tuple[str | int | float, ...]:
    batch = limit.batches[name]
    step_seconds = _step_seconds(trained)
    at_half, at_end = [one.percent_at(half) for one in trained], _at_end(trained)
    return (
        *(LABELS[name], batch, max(one.peak_bytes for one in trained) / MIB, step_seconds),
        *(batch / step_seconds, trained[0].num_steps, mean(one.seconds[-1] for one in trained)),
        *(mean(at_half), _range(at_half), mean(at_end), _range(at_end)),
    )


def _claims(found: Mapping[str, Sequence[Trained]], limit: Limit) -> Iterator[Claim]:
    batches = limit.batches
    yield Claim(
        "largest batch of the original over the momentum network's, same memory",
        batches[ORIGINAL] / batches[MOMENTUM],
        0.5,
    )
    for name in NETWORKS:
        peak = max(one.peak_bytes for one in found[name])
        what = f"{LABELS[name]}, batch {batches[name]}: measured peak over the memory limit"
        yield Claim(what, peak / limit.num_bytes, 1.0)
    costs = [_step_seconds(found[name]) / batches[name] for name in NETWORKS]
    # By the count of forward passes it is 1.4.
    yield Claim(
        "seconds of a photo over the original's, each at its batch", costs[1] / costs[0], 1.9
    )
    original, own = (mean(_at_end(found[name])) for name in NETWORKS)
    yield Claim(f"points below the original, mean of {len(SEEDS)} seeds", original - own, 1.0)
    yield Claim("% of photos missed by the momentum network", 100 - own, 9.0)


def _half_time(found: Mapping[str, Sequence[Trained]]) -> float:
    return min(mean(one.seconds[-1] for one in trained) for trained in found.values()) / 2


def _step_seconds(trained: Sequence[Trained]) -> float:
    return mean(one.step_seconds for one in trained)


def _at_end(trained: Sequence[Trained]) -> list[float]:
    return [one.percents[-1] for one in trained]


def _means(rows: Sequence[Sequence[float]]) -> tuple[float, ...]:
    return tuple(mean(column) for column in zip(*rows, strict=True))


def _range(values: Sequence[float]) -> str:
    return f"{min(values):.1f}, {max(values):.1f}"
