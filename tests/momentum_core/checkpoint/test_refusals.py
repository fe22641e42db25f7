"""Every file of the attack corpus, through the reader itself."""

from __future__ import annotations

import os

import pytest

from momentum_core.checkpoint import DEFAULT_LIMITS, read_dataset, read_dataset_facts
from momentum_core.checkpoint.byte_source import ByteSource
from momentum_core.checkpoint.inspection import inspect_open_checkpoint
from momentum_core.errors import MomentumError
from tests.corpus.case import MARKER
from tests.corpus.cases import CASES
from tests.corpus.npz_files import honest_npz
from tests.corpus.safetensors_files import honest_safetensors
from tests.corpus.torch_files import honest_legacy, honest_zip

# Those that ask for all the memory they may are sent to the service only, which measures it.
CHECKPOINTS = [
    case for case in CASES if case.kind == "checkpoint" and not case.name.startswith(("M48", "S18"))
]
DATASETS = [case for case in CASES if case.kind == "dataset"]


def inspect(folder, content: bytes):
    source, target = folder / "source", folder / "target"
    source.write_bytes(content)
    with source.open("rb") as file, target.open("wb") as output:
        return inspect_open_checkpoint(
            ByteSource(file.fileno()), output.fileno(), architecture=None, limits=DEFAULT_LIMITS
        )


def check_refusal(error: MomentumError, case, folder) -> None:
    assert error.code == case.code, str(error)
    message = str(error)
    assert 20 < len(message) < 3000
    assert message.isprintable()
    assert message.isascii()
    assert str(folder) not in message
    assert os.getcwd() not in message
    assert not MARKER.exists()


@pytest.mark.parametrize("case", CHECKPOINTS, ids=str)
def test_a_hostile_checkpoint_is_refused_with_its_code(case, tmp_path):
    with pytest.raises(MomentumError) as caught:
        inspect(tmp_path, case.build())
    check_refusal(caught.value, case, tmp_path)


@pytest.mark.parametrize("case", DATASETS, ids=str)
@pytest.mark.parametrize("read", [read_dataset_facts, read_dataset])
def test_a_hostile_data_set_is_refused_with_its_code(case, read, tmp_path):
    path = tmp_path / "sent.npz"
    path.write_bytes(case.build())
    with pytest.raises(MomentumError) as caught:
        read(path)
    check_refusal(caught.value, case, tmp_path)


@pytest.mark.parametrize("honest", [honest_zip, honest_legacy, honest_safetensors])
def test_the_files_that_the_corpus_starts_from_are_accepted(honest, tmp_path):
    facts = inspect(tmp_path, honest())
    assert (facts.architecture, facts.architecture_found) == ("cifar_resnet20", True)


def test_the_data_set_that_the_corpus_starts_from_is_accepted(tmp_path):
    path = tmp_path / "sent.npz"
    path.write_bytes(honest_npz())
    facts = read_dataset_facts(path)
    assert (facts.num_train, facts.num_test, facts.num_classes) == (12, 6, 3)


def test_the_corpus_is_large_and_its_names_are_unique():
    assert len(CASES) >= 150
    assert len({case.name for case in CASES}) == len(CASES)
