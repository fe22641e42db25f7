"""A long-lived child that reads mutants, and says what came of each.

    python -m tests.intake.fuzz_child FOLDER KIND COUNT SEED

FOLDER holds the honest files that mutants are made of. Prints one line of JSON. The file
`FOLDER/KIND.at` holds the number of the mutant at hand, in case this process does not survive it.
"""

from __future__ import annotations

import hashlib
import json
import os
import resource
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from momentum_core.checkpoint import DEFAULT_LIMITS
from momentum_core.checkpoint.byte_source import ByteSource
from momentum_core.checkpoint.npz_dataset import parse_dataset_facts
from momentum_core.checkpoint.reader import parse_checkpoint
from momentum_core.checkpoint.safetensors_writer import write_tensors
from momentum_core.errors import MomentumError
from momentum_core.image_archive import ImageForm
from momentum_core.image_archive.inspection import inspect_open_dataset
from momentum_core.image_archive.pixels import decode_image
from tests.intake.mutants import Series

FORM = ImageForm(side=8, resize_side=8, channels=1)
Reading = Callable[[bytes], object]


class Scratch:
    """A file that is written anew for each mutant."""

    def __init__(self) -> None:
        self.descriptor, name = tempfile.mkstemp()
        os.unlink(name)

    def fill(self, content: bytes) -> int:
        os.ftruncate(self.descriptor, 0)
        os.lseek(self.descriptor, 0, os.SEEK_SET)
        os.write(self.descriptor, content)
        os.lseek(self.descriptor, 0, os.SEEK_SET)
        return self.descriptor


def digest_of(tensors: dict[str, tuple[str, tuple[int, ...], bytes]]) -> str:
    """One value for names, types, shapes and bytes of tensors."""
    digest = hashlib.blake2b(digest_size=12)
    for name in sorted(tensors):
        dtype, shape, content = tensors[name]
        digest.update(repr((name, dtype, shape, len(content))).encode() + content)
    return digest.hexdigest()


def reading(kind: str) -> Reading:
    """How the files of a kind are read; the answer is compared with another reader's."""
    source, target = Scratch(), Scratch()

    def checkpoint(content: bytes) -> object:
        found = parse_checkpoint(ByteSource(source.fill(content)), DEFAULT_LIMITS)
        write_tensors(target.fill(b""), found.tensors, metadata={})
        return digest_of(
            {
                name: (tensor.dtype, tensor.shape, b"".join(tensor.chunks()))
                for name, tensor in found.tensors.items()
            }
        )

    def arrays(content: bytes) -> object:
        opened = ByteSource(source.fill(content))
        facts = parse_dataset_facts(opened, num_classes=None, limits=DEFAULT_LIMITS)
        return [facts.num_train, facts.num_test, facts.num_classes]

    def folder(content: bytes) -> object:
        opened, output = ByteSource(source.fill(content)), target.fill(b"")
        inspect_open_dataset(opened, output, num_classes=None, form=FORM, limits=DEFAULT_LIMITS)
        return None

    def image(content: bytes) -> object:
        decode_image(content, FORM, DEFAULT_LIMITS)
        return None

    kinds = {"npz": arrays, "zip_folder": folder, "tar_folder": folder}
    return kinds.get(kind, image if kind in ("png", "jpeg", "webp") else checkpoint)


def main() -> None:
    """Read mutants until all are read."""
    folder, kind, count, seed = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    if sys.platform == "linux":
        resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
    series = Series.of(folder, kind, seed)
    read = reading(kind)
    codes: Counter[str] = Counter()
    accepted: list[tuple[int, object]] = []
    failures: list[tuple[int, str]] = []
    slowest = (0.0, -1)
    at = os.open(folder / f"{kind}.at", os.O_WRONLY | os.O_CREAT, 0o600)
    for number in range(count):
        os.pwrite(at, b"%10d" % number, 0)
        content = series[number]
        started = time.process_time()
        try:
            accepted.append((number, read(content)))
            codes["accepted"] += 1
        except MomentumError as error:
            codes[error.code] += 1
        except Exception as error:
            failures.append((number, repr(error)))
        slowest = max(slowest, (time.process_time() - started, number))
    # Not `ru_maxrss`: that begins at the peak of the process which started this one.
    status = Path("/proc/self/status")
    text = status.read_text() if status.exists() else "VmHWM: 0 kB"
    peak = int(text.partition("VmHWM:")[2].split()[0]) * 1024
    found = {"codes": codes, "accepted": accepted, "failures": failures, "slowest": slowest}
    sys.stdout.write(json.dumps(found | {"peak_bytes": peak}) + "\n")


if __name__ == "__main__":
    main()
