"""Every hostile archive and image of the corpus, through the reader itself."""

from __future__ import annotations

import os

import pytest

from momentum_core.checkpoint import DEFAULT_LIMITS
from momentum_core.checkpoint.byte_source import ByteSource
from momentum_core.errors import CheckpointError
from momentum_core.image_archive import ImageForm
from momentum_core.image_archive.inspection import inspect_open_dataset
from tests.corpus.case import MARKER
from tests.corpus.cases import CASES

ARCHIVES = [case for case in CASES if case.kind == "archive"]
FORM = ImageForm(side=8, resize_side=8, channels=1)


@pytest.mark.parametrize("case", ARCHIVES, ids=str)
def test_a_hostile_archive_is_refused_with_its_code(case, tmp_path):
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(case.build())
    with (
        source.open("rb") as file,
        target.open("w+b") as output,
        pytest.raises(CheckpointError) as caught,
    ):
        inspect_open_dataset(
            ByteSource(file.fileno()),
            output.fileno(),
            num_classes=10,
            form=FORM,
            limits=DEFAULT_LIMITS,
        )
    message = str(caught.value)
    assert caught.value.code == case.code, message
    assert 20 < len(message) < 3000
    assert message.isprintable()
    assert message.isascii()
    assert str(tmp_path) not in message
    assert os.getcwd() not in message
    assert not MARKER.exists()
