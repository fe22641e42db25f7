"""Mutated files: the same for the same format, seed and number, on every machine.

Most mutants are made with the format in mind, so that the change gets past the outer checks: zip
entries with the right checksum, pickle instructions that still follow one another, JSON that is
still JSON, tar headers with the right sum, PNG parts with the right CRC.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

from tests.corpus.raw_zip import Entry
from tests.intake.mutate_archives import change_entry, change_header, change_member, change_part
from tests.intake.mutate_bytes import Mutator, change_bytes, change_text
from tests.intake.mutate_weights import change_instruction, change_json


def mutant(kind: str, bases: list[bytes], seed: int, number: int) -> bytes:
    """Return a mutated file.

    Args:
        kind: a key of `MUTATORS`.
        bases: honest files of that format.
        seed: of the series.
        number: place in the series.
    """
    rng = random.Random(f"{kind}-{seed}-{number}")
    content = rng.choice(bases)
    mutators = MUTATORS[kind]
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        content = rng.choice(mutators)(rng, content)
    return content


def _in_pickle(rng: random.Random, entry: Entry) -> bytes:
    is_pickle = entry.name.endswith(".pkl")
    return (change_instruction if is_pickle and rng.random() < 0.8 else change_bytes)(
        rng, entry.content
    )


def _in_array(rng: random.Random, entry: Entry) -> bytes:
    if rng.random() < 0.3:
        return change_bytes(rng, entry.content)
    return change_text(rng, entry.content, 128)


MUTATORS: dict[str, tuple[Mutator, ...]] = {
    "torch_zip": (
        *(change_entry(_in_pickle),) * 4,
        change_entry(lambda rng, entry: change_bytes(rng, entry.content)),
        change_header,
        change_bytes,
    ),
    "torch_legacy": (*(change_instruction,) * 4, change_bytes, change_bytes),
    "safetensors": (*(change_json,) * 4, change_bytes, change_bytes),
    "npz": (*(change_entry(_in_array),) * 3, change_header, change_bytes),
    "zip_folder": (
        *(change_entry(lambda rng, entry: change_bytes(rng, entry.content)),) * 2,
        *(change_header,) * 2,
        change_bytes,
    ),
    "tar_folder": (*(change_member,) * 4, change_bytes),
    "png": (*(change_part,) * 3, change_bytes),
    "jpeg": (change_bytes,),
    "webp": (change_bytes,),
}


@dataclass(frozen=True, slots=True)
class Series:
    """Mutants of one format, numbered from 0."""

    kind: str
    bases: list[bytes]
    seed: int

    @classmethod
    def of(cls, folder: Path, kind: str, seed: int) -> Series:
        """Make the series of the honest files in a folder."""
        names = sorted(folder.glob(f"{kind}-*"))
        return cls(kind, [name.read_bytes() for name in names], seed)

    def __getitem__(self, number: int) -> bytes:
        return mutant(self.kind, self.bases, self.seed, number)
