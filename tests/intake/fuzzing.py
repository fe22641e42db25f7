"""Mutated files of each format, read in long-lived children and compared with the other readers.

python -m tests.intake.fuzzing [COUNT [SEED]]       100,000 of each format, as a report
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import ROOT
from tests.intake.fuzz_bases import write_bases
from tests.intake.mutants import MUTATORS, Series
from tests.intake.other_readers import differs

MAX_SECONDS = 2.0
MAX_BYTES = 256 << 20
KINDS = tuple(MUTATORS)
CODES = frozenset(
    {
        *("accepted", "unsupported_format", "checksum_mismatch", "truncated_file"),
        *("malformed_file", "unsafe_pickle", "unsafe_archive", "too_many_tensors"),
        *("tensor_out_of_bounds", "tensor_aliasing", "tensor_too_large", "bad_tensor_name"),
        *("unsupported_dtype", "non_finite_weights", "too_complex", "unsafe_path"),
        *("too_many_files", "expands_too_large", "bad_image", "image_too_large", "no_images"),
        "invalid_data",
    }
)
"""What may come of a file."""


@dataclass(frozen=True, slots=True)
class Report:
    """What came of a series.

    Attributes:
        codes: how many files by what came of them.
        failures: numbers of mutants, and what went wrong with each.
        slowest: seconds and number of the slowest one.
        compared: how many accepted ones another reader read as well.
        refused_elsewhere: accepted ones that the other reader refuses, by its reason.
        peak_bytes: memory of the child.
    """

    codes: dict[str, int]
    failures: list[tuple[int, str]]
    slowest: tuple[float, int]
    compared: int
    refused_elsewhere: dict[str, int]
    peak_bytes: int

    @property
    def is_good(self) -> bool:
        """Whether every file was taken or refused properly, soon, and as the other reader does."""
        is_known = set(self.codes) <= CODES and not self.failures and not self.refused_elsewhere
        return is_known and self.slowest[0] <= MAX_SECONDS and self.peak_bytes <= MAX_BYTES


def fuzz(kind: str, count: int, *, seed: int = 0) -> Report:
    """Read `count` mutants of a format in a child of their own, compare those it accepts."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_bases(folder, kind)
        command = [
            sys.executable,
            "-m",
            "tests.intake.fuzz_child",
            name,
            kind,
            str(count),
            str(seed),
        ]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        if done.returncode:
            at = int((folder / f"{kind}.at").read_text())
            last = done.stderr.strip().splitlines()[-1:]
            failure = (at, f"the child ended with {done.returncode}: {last}")
            return Report({}, [failure], (0.0, -1), 0, {}, 0)
        found = json.loads(done.stdout)
        failures = [tuple(one) for one in found["failures"]]
        compared, refused = 0, {}
        for number, answer in found["accepted"]:
            difference = differs(kind, Series.of(folder, kind, seed)[number], answer, folder)
            if difference is None:
                compared += 1
            elif difference.startswith("refused: "):
                refused[difference] = refused.get(difference, 0) + 1
            else:
                failures.append((number, difference))
        slowest, peak_bytes = tuple(found["slowest"]), found["peak_bytes"]
        return Report(found["codes"], failures, slowest, compared, refused, peak_bytes)


def main() -> None:
    """Print a report of long series; fail if something is wrong."""
    count, seed = ([int(one) for one in sys.argv[1:]] + [100_000, 0][len(sys.argv) - 1 :])[:2]
    is_good = True
    with ThreadPoolExecutor(2) as pool:
        for kind, report in zip(
            KINDS, pool.map(lambda one: fuzz(one, count, seed=seed), KINDS), strict=True
        ):
            is_good = is_good and report.is_good
            sys.stdout.write(f"{kind}: {'good' if report.is_good else 'WRONG'}, {report}\n")
    sys.exit(not is_good)


if __name__ == "__main__":
    main()
