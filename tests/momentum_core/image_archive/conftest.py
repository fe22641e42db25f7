"""Inspection of an archive that is given as bytes."""

from __future__ import annotations

import pytest

from momentum_core.checkpoint import DEFAULT_LIMITS
from momentum_core.checkpoint.byte_source import ByteSource
from momentum_core.image_archive import ImageForm
from momentum_core.image_archive.inspection import inspect_open_dataset

SMALL = ImageForm(side=8, resize_side=8, channels=1)


@pytest.fixture
def inspect(tmp_path):
    """Inspect `content`; return the facts and the canonical file."""

    def run(content: bytes, form: ImageForm = SMALL, *, num_classes=None, limits=DEFAULT_LIMITS):
        source, target = tmp_path / "source", tmp_path / "target.npz"
        source.write_bytes(content)
        with source.open("rb") as file, target.open("w+b") as output:
            facts = inspect_open_dataset(
                ByteSource(file.fileno()),
                output.fileno(),
                num_classes=num_classes,
                form=form,
                limits=limits,
            )
        return facts, target

    return run
