"""Runs the parts that are named, or all that are quick, and says which claims hold.

python -m tests.benchmarks                 what is quick: a quarter of an hour on two quiet cores
python -m tests.benchmarks full            everything: a night
python -m tests.benchmarks list            the parts
python -m tests.benchmarks PART ... [--record]

What a run found is kept in build/benchmarks; with --record in docs/benchmarks, from which the
documents are generated (python -m tests.architecture.write_documents).
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from tests.benchmarks import record
from tests.benchmarks.findings import Claim, Finding, Part
from tests.benchmarks.parts import PARTS

BUILD = Path("build") / "benchmarks"


def main(arguments: list[str]) -> int:
    """Run parts; return 1 if a claim does not hold."""
    names = [one for one in arguments if one != "--record"]
    folder = record.RECORDS if "--record" in arguments else BUILD
    if names == ["list"]:
        for name, part in PARTS.items():
            sys.stdout.write(f"{name:16} {'' if part.is_quick else '(long) '}{part.about}\n")
        return 0
    if names in ([], ["quick"]):
        names = [name for name, part in PARTS.items() if part.is_quick]
    elif names == ["full"]:
        names = list(PARTS)
    unknown = [name for name in names if name not in PARTS]
    if unknown:
        known = ", ".join([*PARTS, "quick", "full", "list"])
        sys.stderr.write(f"there is no part {unknown[0]!r}; parts are {known}\n")
        return 2
    machine = ", ".join(f"{name} {value}" for name, value in record.machine().items())
    sys.stdout.write(f"torch {record.versions()['torch']}, {machine}\n")
    failed = [claim for name in names for claim in _run(name, PARTS[name], folder)]
    for claim in failed:
        sys.stdout.write(f"\n{claim}")
    sys.stdout.write(f"\n{len(failed)} claims do not hold\n" if failed else "\nall claims hold\n")
    return 1 if failed else 0


def _run(name: str, part: Part, folder: Path) -> list[Claim]:
    """Run a part, keep what it found, and return the claims that do not hold."""
    sys.stdout.write(f"\n## {name}: {part.about}\n")
    started = time.monotonic()
    findings: list[Finding] = []
    for finding in part.run():
        sys.stdout.write(f"{finding}\n")
        sys.stdout.flush()
        findings.append(finding)
    seconds = time.monotonic() - started
    path = record.write(folder, name, part, findings, seconds)
    sys.stdout.write(f"{name}: {seconds:.0f} s, kept in {path}\n")
    return [one for one in findings if isinstance(one, Claim) and not one.holds]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
