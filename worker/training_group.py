"""Several processes of one worker that train a job's network together, each on a GPU of its own.

The job's process is the first of them: it judges, tells, and writes the state. The others make the
same call (`worker.train_beside`) and do their share of every batch.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from momentum_core.errors import ConfigError, MomentumError
from momentum_core.memory_errors import is_out_of_memory
from momentum_core.refinement import Checkpoints
from worker.contract.lifeline import tied_command
from worker.training_calls import TrainingCall

WAIT = timedelta(hours=2)
"""How long a process waits for the others: the first one calibrates and judges alone."""

LOOK_SECONDS = 0.2
PATIENCE_SECONDS = 20.0
"""Until a process whose connection is gone has ended: an interpreter with torch takes its time."""

GRACE_SECONDS = 30.0
"""Time in which a process that lost another one may notice by itself."""

NOTE_CHARACTERS = 2000
VICTIMS_WORDS = ("Connection closed by peer", "Connection reset by peer")
CALL_FILE, MEETING_FILE = "call.pt", "meeting"

logger = logging.getLogger(__name__)


class HelperError(Exception):
    """Another process of the training ended by an error, and it is not this one's.

    Attributes:
        is_victim: it only lost the connection to one that had ended before.
    """

    def __init__(self, message: str, *, is_victim: bool = False) -> None:
        super().__init__(message)
        self.is_victim = is_victim


class HelperLostError(HelperError):
    """Another process of the training was killed: with a new one, the training can go on."""


@dataclass(frozen=True, slots=True)
class TrainingGroup:
    """The devices that train a job's network together; the first one is the job's own.

    Attributes:
        devices: one for each process.
        end_process: ends this process where it waits for one that is gone, and nothing else can.
    """

    devices: tuple[torch.device, ...]
    end_process: Callable[[], object] = lambda: os._exit(1)

    @classmethod
    def of(cls, device: torch.device, count: int) -> TrainingGroup:
        """Take as many devices of a kind, from a first one on; a processor is shared.

        Raises:
            ConfigError: there are not as many.
        """
        if device.type != "cuda" or count == 1:
            return cls((device,) * count)
        first, there_are = device.index or 0, torch.cuda.device_count()
        if first + count > there_are:
            raise ConfigError(
                f"MOMENTUM_TRAINING_PROCESSES is {count}, and from {device} on this worker has "
                f"{there_are - first} GPUs; set it to that, or give the worker more"
            )
        return cls(tuple(torch.device("cuda", first + number) for number in range(count)))

    @contextmanager
    def helping(self, call: TrainingCall, folder: Path) -> Iterator[None]:
        """Have the others make the same call while the context lasts; it is made within it.

        Args:
            call: what is trained, and how.
            folder: for what they read; removed with the caller's temporary files.

        Raises:
            HelperLostError: one of the others was killed.
            HelperError: one of the others ended by an error; its last words are in it.
            torch.OutOfMemoryError: likewise, and it was that its device is full.
        """
        if len(self.devices) == 1:
            yield
            return
        meeting = folder / "training"
        meeting.mkdir()
        # A file that torch opens by itself would not say that the disk is full.
        with (meeting / CALL_FILE).open("wb") as file:
            torch.save(call, file)
        helpers = [_Helper.start(rank, meeting, self.devices) for rank in self._others]
        ended = threading.Event()
        watch = threading.Thread(
            target=self._watch, args=(helpers, ended), name="helpers", daemon=True
        )
        try:
            _wait_until_ready(helpers)
            watch.start()
            meet(meeting, 0, self.devices)
            logger.info("%d processes train together", len(self.devices))
            yield
            dist.barrier()  # nobody leaves while another still sends
        except RuntimeError as error:  # as torch says that another process does not answer
            if isinstance(error, MomentumError) or is_out_of_memory(error):
                raise  # all of them met it, or this one
            if (lost := _end_of_lost(helpers)) is None:
                raise
            raise lost from error
        finally:
            for helper in helpers:
                helper.process.kill()
                helper.process.wait()
            if dist.is_initialized():
                dist.destroy_process_group()  # watched: it may wait for others, too
            ended.set()
            if watch.ident is not None:
                watch.join()

    @property
    def _others(self) -> range:
        return range(1, len(self.devices))

    def _watch(self, helpers: list[_Helper], ended: threading.Event) -> None:
        """End this process if it still waits, long after another one was killed.

        One that ended by an error of its own is not looked at here: nothing of a share is done
        where it would not be told, and a job that is stuck all the same has its own limit.
        """
        while not ended.wait(LOOK_SECONDS):
            if isinstance(lost := _end_of(helpers), HelperLostError):
                if not ended.wait(GRACE_SECONDS):
                    logger.error("this process cannot go on: %s", lost)
                    self.end_process()
                return


@dataclass(frozen=True, slots=True)
class _Helper:
    """Another process, and where it is told and tells."""

    rank: int
    meeting: Path
    process: subprocess.Popen[bytes]

    @classmethod
    def start(cls, rank: int, meeting: Path, devices: tuple[torch.device, ...]) -> _Helper:
        command = [sys.executable, "-P", "-m", "worker.train_beside", str(meeting), str(rank)]
        with (meeting / f"{rank}.log").open("wb") as log:
            process = subprocess.Popen(
                tied_command([*command, *map(str, devices)]),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        return cls(rank, meeting, process)

    @property
    def is_ready(self) -> bool:
        return ready_file(self.meeting, self.rank).exists()

    def end(self) -> Exception | None:
        """Return what it ended by, or None: it goes on, or was done."""
        code = self.process.poll()
        if not code:
            return None
        said = (self.meeting / f"{self.rank}.log").read_text(errors="replace").strip()
        said = said[-NOTE_CHARACTERS:]
        message = f"process {self.rank} of the training ended with code {code}"
        if code < 0:
            return HelperLostError(message)
        message += f": {said}"
        if "MemoryError" in said or is_out_of_memory(RuntimeError(said)):
            return torch.OutOfMemoryError(message)
        return HelperError(message, is_victim=any(words in said for words in VICTIMS_WORDS))


def _wait_until_ready(helpers: list[_Helper]) -> None:
    """Wait until all can meet, which they would wait for much longer if one could not.

    Raises:
        Exception: what one of them ended by.
    """
    while not all(helper.is_ready for helper in helpers):
        if (error := _end_of(helpers)) is not None:
            raise error
        time.sleep(LOOK_SECONDS)


def _end_of_lost(helpers: list[_Helper]) -> Exception | None:
    """Return `_end_of` once one has ended, which may take a moment; None if none does."""
    given_up_at = time.monotonic() + PATIENCE_SECONDS
    while (error := _end_of(helpers)) is None and time.monotonic() < given_up_at:
        time.sleep(LOOK_SECONDS)
    return error


def _end_of(helpers: list[_Helper]) -> Exception | None:
    """Return what one of them ended by, or None.

    One that lost another ends, too: what is most likely the cause of the others' end comes first.
    """
    errors = [error for helper in helpers if (error := helper.end()) is not None]
    return min(errors, key=_distance_from_cause, default=None)


def _distance_from_cause(error: Exception) -> int:
    if isinstance(error, HelperLostError):
        return 1
    return 2 if isinstance(error, HelperError) and error.is_victim else 0


@dataclass(frozen=True, slots=True)
class TrainingPlace:
    """Where a job's training happens: its processes, its state, and a folder for what they share.

    Attributes:
        group: the processes.
        checkpoints: where an earlier attempt at the job left its state, and this one does.
        folder: temporary.
    """

    group: TrainingGroup
    checkpoints: Checkpoints
    folder: Path

    def helping(self, call: TrainingCall) -> AbstractContextManager[None]:
        """Have the group's other processes make the same call; see `TrainingGroup.helping`."""
        return self.group.helping(call, self.folder)


def ready_file(meeting: Path, rank: int) -> Path:
    """Return the file by which a process says that it is about to meet the others."""
    return meeting / f"{rank}.ready"


def meet(meeting: Path, rank: int, devices: tuple[torch.device, ...]) -> None:
    """Wait for the other processes, and form the group with them.

    Args:
        meeting: a folder of all of them.
        rank: which of them this is.
        devices: one for each.
    """
    device = devices[rank]
    if device.type == "cuda":
        torch.cuda.set_device(device)
    elif sys.platform == "linux":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        init_method=f"file://{meeting / MEETING_FILE}",
        rank=rank,
        world_size=len(devices),
        timeout=WAIT,
    )
