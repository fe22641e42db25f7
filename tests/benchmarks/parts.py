"""The parts of the benchmarks by name."""

from __future__ import annotations

from tests.benchmarks import (
    agreement,
    core,
    depth,
    exactness,
    fidelity,
    finetune,
    lista,
    machines,
    memory,
    memory_limit,
    memory_report,
    properties,
    refine,
    representation,
    resumption,
    rival_networks,
    rivals,
    robustness,
    scale,
    service,
    small_systems,
)
from tests.benchmarks.findings import Part

PARTS: dict[str, Part] = {
    "properties": Part(
        about="what each way to save memory promises, checked (the paper's table 1)",
        run=properties.run,
        is_quick=True,
    ),
    "exactness": Part(
        about="gradient error of reversal by depth and gamma", run=exactness.run, is_quick=True
    ),
    "depth": Part(
        about="memory by depth and by batch size (figures 2 and 7)", run=depth.run, is_quick=True
    ),
    "rivals": Part(
        about="every memory-saving system on one chain", run=rivals.run_chain, is_quick=True
    ),
    "rival-networks": Part(
        about="whole networks by the systems that take pretrained weights",
        run=rival_networks.run_networks,
    ),
    "representation": Part(
        about="what small systems can represent (figures 1 and 5)",
        run=representation.run,
        is_quick=True,
        seeds=small_systems.SEEDS,
    ),
    "robustness": Part(
        about="CIFAR-10 accuracy by gamma, calibrated and refitted too (figure 6)",
        run=robustness.run,
    ),
    "robustness-quick": Part(
        about="CIFAR-10 accuracy by gamma without data", run=robustness.run_quick, is_quick=True
    ),
    "learning-to-optimize": Part(
        about="unrolled optimizers as residual networks (section 5.3)",
        run=lista.run,
        is_quick=True,
        seeds=lista.SEEDS,
    ),
    "memory-limit": Part(
        about="fine-tuning under a memory limit: accuracy against time (figure 8)",
        run=memory_limit.run,
        seeds=memory_limit.SEEDS,
    ),
    "core": Part(about="the reversible core on two chains of blocks", run=core.run, is_quick=True),
    "peaks": Part(
        about="peak memory of whole networks by each method", run=memory.run_peaks, is_quick=True
    ),
    "memory": Part(about="the same, with the time of a step", run=memory.run),
    "agreement": Part(
        about="every torchvision classifier at small gamma against its original",
        run=agreement.run,
    ),
    "fidelity": Part(about="accuracy right after conversion", run=fidelity.run),
    "refine": Part(about="accuracy that refinement gives back", run=refine.run),
    "finetune": Part(
        about="fine-tuning photos: accuracy, memory, largest batch",
        run=finetune.run,
        seeds=finetune.SEEDS,
    ),
    "memory-report": Part(about="prediction and tracker against the truth", run=memory_report.run),
    "resumption": Part(about="a killed refinement ends with the same bits", run=resumption.run),
    "service": Part(about="the API against a bare server", run=service.run, is_quick=True),
    "scale": Part(about="a million jobs in the record", run=scale.run),
    "machines": Part(about="two APIs and four workers", run=machines.run),
}
