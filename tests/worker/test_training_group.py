"""A job that several processes of its worker train together: gloo on a CPU, as NCCL on GPUs."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from momentum_core.architectures import build
from momentum_core.config import ConversionConfig, FinetuningConfig, RefinementConfig
from momentum_core.conversion import convert, plan_architecture
from momentum_core.errors import ConfigError, DataError
from momentum_core.refinement import Checkpoints, TrainingImages
from tests.worker.digits import DATASET, DIGITS, PREPROCESSING
from worker.contract.job import JobState
from worker.contract.zoo import find_zoo_entry
from worker.run_job import run_job
from worker.training_calls import FinetuneCall, RefineCall
from worker.training_group import (
    HelperError,
    HelperLostError,
    TrainingGroup,
    TrainingPlace,
    _end_of,
    _Helper,
)
from worker.zoo import SHIPPED_FOLDER

# Of a layer with one input channel, whose strides may be written in two ways.
pytestmark = pytest.mark.filterwarnings("ignore:Grad strides do not match")

CPU = torch.device("cpu")
CONFIG = RefinementConfig(
    max_steps=6,
    batch_size=33,  # not even: shares differ
    learning_rate=0.02,
    evaluation_interval=3,
    calibrate=False,
    goal=None,
)


@pytest.fixture(autouse=True)
def _tests_found(monkeypatch):
    """The other process is to find this file."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))


@pytest.fixture(scope="module")
def networks():
    entry = find_zoo_entry("digits_resnet26")
    original = build(entry.architecture, num_classes=10).eval()
    original.load_state_dict(load_file(SHIPPED_FOLDER / entry.file_name))
    config = ConversionConfig(gamma=0.9, scheme="paper", plan_memory=False)
    plan = plan_architecture(entry.architecture, num_classes=10, config=config)
    return convert(original, plan=plan), original


@pytest.fixture
def call(networks) -> RefineCall:
    momentum, original = networks
    return RefineCall(
        momentum=momentum,
        original=original,
        data=TrainingImages(DATASET.x_train[:300], DATASET.y_train[:300]),
        preprocessing=PREPROCESSING,
        config=CONFIG,
        test_images=DATASET.x_test,
        seed=0,
    )


def place(folder: Path, group: TrainingGroup, states: str = "states") -> TrainingPlace:
    shared = folder / f"shared-{time.monotonic_ns()}"
    shared.mkdir(parents=True)
    return TrainingPlace(group, Checkpoints(folder / states, every_seconds=0), shared)


def trained(call, where: TrainingPlace, on_step=None):
    with where.helping(call):
        return call.run(where.checkpoints, on_step=on_step)


def helpers() -> list[int]:
    """Ids of the processes that train beside this one."""
    children: set[int] = set()
    for task in Path("/proc/self/task").iterdir():
        # A thread may end between being listed and being read.
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            children.update(int(one) for one in (task / "children").read_text().split())
    found = []
    for child in sorted(children):
        try:
            words = Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")
        except (FileNotFoundError, ProcessLookupError):
            continue
        # It is not yet what it becomes, or not any more.
        if b"worker.train_beside" in words and b"worker.contract.lifeline" not in words:
            found.append(child)
    return found


def moved(call: RefineCall, found) -> torch.Tensor:
    start, end = call.momentum.state_dict(), found.model.state_dict()
    return torch.cat([(end[name] - start[name]).double().flatten() for name in start])


def test_two_processes_train_as_one_does_and_are_gone_afterwards(call, tmp_path):
    pair = TrainingGroup.of(CPU, 2)
    seen, told = [], []

    def on_step(progress):
        told.append(progress.step)
        seen.extend(helpers())

    together = trained(call, place(tmp_path / "two", pair), on_step)
    assert (told, len(set(seen))) == ([1, 2, 3, 4, 5, 6], 1)
    assert helpers() == []
    assert not torch.distributed.is_initialized()
    alone = trained(call, place(tmp_path / "one", TrainingGroup.of(CPU, 1)))
    one, two = moved(call, alone), moved(call, together)
    assert float((one - two).norm() / one.norm()) < 1e-3
    assert float(one.norm()) > 0.1


def test_an_interrupted_training_goes_on_with_both_and_ends_with_the_same_bits(call, tmp_path):
    pair = TrainingGroup.of(CPU, 2)

    def stop(progress):
        if progress.step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained(call, place(tmp_path, pair, "broken"), stop)
    assert helpers() == []
    resumed = trained(call, place(tmp_path, pair, "broken"))
    assert resumed.result.resumed_at == (3,)
    whole = trained(call, place(tmp_path, pair, "whole"))
    assert torch.equal(moved(call, resumed), moved(call, whole))


def test_fine_tuning_is_done_together_too(call, tmp_path):
    finetuning = FinetuneCall(
        momentum=call.momentum,
        original=call.original,
        data=call.data,
        preprocessing=PREPROCESSING,
        config=FinetuningConfig(max_steps=4, calibrate=False, batch_size=16),
        num_classes=10,
        test_images=DATASET.x_test,
        seed=0,
    )
    told = []
    done = trained(
        finetuning,
        place(tmp_path, TrainingGroup.of(CPU, 2)),
        lambda which, progress: told.append((which, progress.step)),
    )
    assert told == [(which, step) for which in ("original", "momentum") for step in (1, 2, 3, 4)]
    assert done.result.momentum.num_steps == 4


def test_the_others_are_not_waited_for_where_all_refuse(call, tmp_path):
    call.data = TrainingImages(DATASET.x_train[:3], DATASET.y_train[:3])
    call.test_images = DATASET.x_train[:3]
    started = time.monotonic()
    with pytest.raises(DataError, match="test images are training images"):
        trained(call, place(tmp_path, TrainingGroup.of(CPU, 2)))
    assert time.monotonic() - started < 600
    assert helpers() == []


@dataclass(kw_only=True, slots=True)
class FailingCall(RefineCall):
    """Fails in the processes that are not the job's own."""

    how: str = "exit"

    def run(self, checkpoints, on_preparing=None, on_step=None):
        if torch.distributed.get_rank() == 0:
            return RefineCall.run(self, checkpoints, on_preparing, on_step)
        if self.how == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.how == "memory":
            torch.empty(1 << 60)
        raise ValueError(f"{self.how}: it fails")

    def to(self, device):
        if self.how == "early":
            raise ValueError("cannot begin")
        RefineCall.to(self, device)


def failing(call: RefineCall, how: str) -> FailingCall:
    values = {one.name: getattr(call, one.name) for one in fields(call)}
    return FailingCall(**values, how=how)


@pytest.mark.parametrize(
    ("how", "kind", "message"),
    [
        ("killed", HelperLostError, "process 1 of the training ended with code -9"),
        ("memory", torch.OutOfMemoryError, r"(?s)process 1 .* code 1: .*allocate memory"),
        ("odd", HelperError, r"(?s)process 1 .* code 1: .*ValueError: odd: it fails"),
        ("early", HelperError, r"(?s)process 1 .* code 1: .*ValueError: cannot begin"),
    ],
)
def test_another_process_that_ends_ends_the_training(call, tmp_path, how, kind, message):
    ended = threading.Event()
    group = replace(TrainingGroup.of(CPU, 2), end_process=ended.set)
    with pytest.raises(kind, match=message) as raised:
        trained(failing(call, how), place(tmp_path, group))
    assert type(raised.value) is kind
    assert not ended.is_set(), "this one noticed by itself"
    assert helpers() == []


ENDS = {
    "memory": (1, "torch.OutOfMemoryError: full\nWARNING: process group was not destroyed"),
    "error": (1, "ValueError: odd"),
    "killed": (-9, ""),
    "victim": (1, "RuntimeError: Connection closed by peer"),
    "done": (0, ""),
}


@pytest.mark.parametrize(
    ("ends", "kind", "rank"),
    [
        (("victim", "memory", "done"), torch.OutOfMemoryError, 2),
        (("victim", "killed"), HelperLostError, 2),
        (("killed", "error"), HelperError, 2),
        (("victim", "error"), HelperError, 2),
        (("victim",), HelperError, 1),
        (("done",), None, 0),
    ],
    ids=str,
)
def test_what_most_likely_came_first_is_told(tmp_path, ends, kind, rank):
    ended = []
    for number, (code, words) in enumerate((ENDS[end] for end in ends), start=1):
        (tmp_path / f"{number}.log").write_text(words)
        act = f"exit({code})" if code >= 0 else f"import os; os.kill(os.getpid(), {-code})"
        process = subprocess.Popen([sys.executable, "-c", act])
        process.wait()
        ended.append(_Helper(number, tmp_path, process))
    error = _end_of(ended)
    if kind is None:
        assert error is None
        return
    assert type(error) is kind
    assert f"process {rank} of" in str(error)


def test_no_room_for_what_the_others_read_is_told_as_such(call, tmp_path, monkeypatch):
    monkeypatch.setattr("worker.training_group.CALL_FILE", "/dev/full")
    with pytest.raises(OSError, match="No space left on device") as raised:
        trained(call, place(tmp_path, TrainingGroup.of(CPU, 2)))
    assert raised.value.errno == errno.ENOSPC
    assert helpers() == []


def test_a_process_that_waits_for_a_lost_one_ends_itself(call, tmp_path, monkeypatch, caplog):
    """As NCCL may: here the first one is busy with something else for as long."""
    monkeypatch.setattr("worker.training_group.GRACE_SECONDS", 0.1)
    ended = threading.Event()
    group = replace(TrainingGroup.of(CPU, 2), end_process=ended.set)

    def wait(progress):
        [helper] = helpers()
        os.kill(helper, signal.SIGKILL)
        assert ended.wait(30)

    with pytest.raises(HelperLostError):
        trained(call, place(tmp_path, group), wait)
    assert "cannot go on: process 1 of the training ended with code -9" in caplog.text


def test_more_gpus_than_there_are_is_an_error(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    cuda = torch.device("cuda", 1)
    assert TrainingGroup.of(cuda, 3).devices == tuple(torch.device("cuda", n) for n in (1, 2, 3))
    with pytest.raises(ConfigError, match=r"PROCESSES is 4, and from cuda:1 .* has 3 GPUs"):
        TrainingGroup.of(cuda, 4)


def test_a_job_is_trained_by_all_processes_of_its_worker(services, run, caplog):
    workplace = replace(services.workplace, group=TrainingGroup.of(CPU, 2))
    job = run(DIGITS, using=replace(services, workplace=workplace))
    assert job.state == JobState.SUCCEEDED
    assert "2 processes train together" in caplog.text
    assert job.result["refinement"]["num_steps"] == 12
    assert helpers() == []


def test_a_job_whose_other_process_is_lost_goes_on_later(services, store, caplog, monkeypatch):
    """Neither failed nor ended: its lease runs out, as if this process had been lost itself."""
    monkeypatch.setattr("worker.refining.RefineCall", partial(FailingCall, how="killed"))
    workplace = replace(services.workplace, group=TrainingGroup.of(CPU, 2))
    job = store.submit(DIGITS, tenant="default")
    run_job(job.id, replace(services, workplace=workplace))
    assert store.get(job.id, tenant="default").state == JobState.RUNNING
    assert "process 1 of the training ended with code -9; it runs again later" in caplog.text
