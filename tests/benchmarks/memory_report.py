"""Predictions against measurements, the tracker against the profiler, and what predicting costs."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from momentum_core import convert
from momentum_core.architectures import build
from momentum_core.comparison.methods import EACH_BLOCK, MOMENTUM, ORIGINAL, SQRT, methods_of
from momentum_core.conversion import plan_architecture
from momentum_core.memory import measure_training_step, predict_training_step
from tests.benchmarks.findings import Claim
from tests.profiled import profiled

_NETWORKS = (
    *(("cifar_resnet20", 32, (8, 64)), ("cifar_resnet56", 32, (16, 64))),
    *(("resnet18", 128, (4, 16)), ("resnet50", 128, (4, 12)), ("resnext50_32x4d", 96, (4,))),
)
_METHODS = (ORIGINAL, EACH_BLOCK, SQRT, MOMENTUM)

_LARGE = """
import json, resource, sys, time, torch
from torchvision import models
from momentum_core import convert
from momentum_core.conversion import plan_architecture
from momentum_core.memory import predict_training_step

with torch.device("meta"):
    original = models.resnet152(weights=None)
plan = plan_architecture("resnet152", num_classes=1000)
found = {}
for name, model in (("original", original), ("momentum", convert(original, plan=plan))):
    start, used = time.perf_counter(), time.process_time()
    example = torch.empty(512, 3, 224, 224, device="meta")
    step = predict_training_step(model, example, optimizer="sgd_momentum")
    found[name] = {
        "seconds": time.perf_counter() - start,
        "processor_seconds": time.process_time() - used,
        "peak_bytes": step.peak_bytes,
    }
found["resident_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(json.dumps(found))
"""


def run() -> Iterator[Claim]:
    """Measure, predict and profile steps."""
    yield from _cost_of_predicting()
    num_pairs = 0
    for name, side, batches in _NETWORKS:
        torch.manual_seed(0)
        original = build(name, num_classes=10)
        plan = plan_architecture(name, num_classes=10)
        models = {one.name: one.model for one in methods_of(original, convert(original, plan=plan))}
        for batch_size in batches:
            images = torch.randn(batch_size, 3, side, side)
            labels = torch.zeros(batch_size, dtype=torch.int64)
            for method in _METHODS:
                model = models[method]
                assert model is not None
                yield from _pair(
                    f"{name}, {side} px, batch {batch_size}, {method}", model, images, labels
                )
                num_pairs += 1
    yield Claim("pairs that are missing to 20", max(0, 20 - num_pairs), 0)


def _pair(what: str, model: nn.Module, images: Tensor, labels: Tensor) -> Iterator[Claim]:
    measured = measure_training_step(model, images, labels, repeats=1, optimizer="sgd_momentum")
    predicted = predict_training_step(model, images.to("meta"), optimizer="sgd_momentum")
    off = abs(predicted.peak_bytes / measured.peak_bytes - 1)
    yield Claim(f"{what}: prediction off by", off, 0.01)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-9, momentum=0.9)

    def step() -> None:
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()

    model.train()
    step()
    seen = profiled(step)
    sys.stdout.write(
        f"  {what}: tracker {_mib(measured.peak_bytes)}, profiler between operators "
        f"{_mib(seen.peak)}, inside them {_mib(seen.highest)}, process grew "
        f"{_mib(measured.resident_growth_bytes)}\n"
    )
    yield Claim(f"{what}: tracker off by", abs(measured.peak_bytes / seen.peak - 1), 0.01)


def _cost_of_predicting() -> Iterator[Claim]:
    done = subprocess.run(
        [sys.executable, "-c", _LARGE], capture_output=True, text=True, check=True
    )
    found: dict[str, Any] = json.loads(done.stdout)
    for name in (ORIGINAL, MOMENTUM):
        seconds, peak = found[name]["seconds"], found[name]["peak_bytes"]
        used = found[name]["processor_seconds"]
        sys.stdout.write(
            f"  ResNet-152, 224 px, batch 512, {name}: {_mib(peak)}, after {seconds:.1f} s\n"
        )
        # Of a processor: what else the machine does makes the time on the wall.
        yield Claim(f"ResNet-152, batch 512: seconds to predict {name}", used, 10)
    yield Claim("ResNet-152, batch 512: GB of memory", found["resident_bytes"] / 1e9, 1)


def _mib(num_bytes: int | None) -> str:
    return "not measured" if num_bytes is None else f"{num_bytes / 2**20:.1f} MiB"
