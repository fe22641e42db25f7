"""Runs the parts that are named, or all that differ, and says which claims hold."""

from __future__ import annotations

import platform
import sys

import torch

from tests.benchmarks import (
    agreement,
    core,
    fidelity,
    finetune,
    machines,
    memory,
    memory_report,
    refine,
    resumption,
    scale,
    service,
)
from tests.benchmarks.claims import Part

PARTS: dict[str, Part] = {
    "agreement": agreement.run,
    "core": core.run,
    "fidelity": fidelity.run,
    "refine": refine.run,
    "finetune": finetune.run,
    "resumption": resumption.run,
    "service": service.run,
    "scale": scale.run,
    "machines": machines.run,
    "memory": memory.run,
    "peaks": memory.run_peaks,
    "memory-report": memory_report.run,
}
DEFAULT = ("agreement", "core", "fidelity", "service", "memory")  # which includes the peaks


def main(names: list[str]) -> int:
    """Run parts; return 1 if a claim does not hold."""
    unknown = [name for name in names if name not in PARTS]
    if unknown:
        sys.stderr.write(f"there is no part {unknown[0]!r}; parts are {', '.join(PARTS)}\n")
        return 2
    sys.stdout.write(
        f"torch {torch.__version__}, Python {platform.python_version()}, "
        f"{torch.get_num_threads()} threads, {platform.machine()}\n"
    )
    failed = 0
    for name in names or DEFAULT:
        sys.stdout.write(f"\n## {name}\n")
        for claim in PARTS[name]():
            sys.stdout.write(f"{claim}\n")
            sys.stdout.flush()
            failed += not claim.holds
    sys.stdout.write(f"\n{failed} claims do not hold\n" if failed else "\nall claims hold\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
