"""The command `momentum` as people use it: a process of its own, piped or in a terminal."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pexpect
import pytest

from tests.conftest import ROOT
from tests.end_to_end.conftest import MOMENTUM

Command = Callable[..., subprocess.CompletedProcess[str]]

# Measures what it must and nothing else: of the commands it makes no difference.
SHORT = tuple(
    word
    for option in (
        "conversion.plan_memory=false",
        "measurement.rivals=false",
        "measurement.predict=false",
        "measurement.repeats=1",
        "refinement.calibrate=false",
        "refinement.batch_size=16",
    )
    for word in ("--set", option)
)
ESCAPE = "\x1b"


def environment(url: str, **more: str) -> dict[str, str]:
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("MOMENTUM_") and name not in ("FORCE_COLOR", "TERM")
    }
    # As when it is installed: from wherever the user stands, our packages are found.
    return kept | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "MOMENTUM_URL": url} | more


@pytest.fixture(scope="session")
def url(url_of_running_service) -> str:
    return url_of_running_service


def run_momentum(
    url: str, cwd: Path, *arguments: object, timeout: float = 600, **more: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [MOMENTUM, *map(str, arguments)],
        cwd=cwd,
        env=environment(url, **more),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


@pytest.fixture
def momentum(url, tmp_path) -> Command:
    """Run a command piped, and return what came of it."""

    def run(*arguments: object, **more: str) -> subprocess.CompletedProcess[str]:
        done = run_momentum(url, tmp_path, *arguments, **more)
        assert ESCAPE not in done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done

    return run


def in_terminal(url: str, cwd: Path, *arguments: object) -> tuple[str, int]:
    """Run a command in a pseudo-terminal; return what it showed and its exit code."""
    child = pexpect.spawn(
        str(MOMENTUM),
        [str(one) for one in arguments],
        cwd=str(cwd),
        env=environment(url, TERM="xterm-256color"),
        dimensions=(50, 120),
        encoding="utf-8",
        timeout=240,
    )
    child.expect(pexpect.EOF)
    child.close()
    return str(child.before), int(child.exitstatus)


@pytest.fixture
def terminal(url, tmp_path):
    """Run a command in a pseudo-terminal."""
    return partial(in_terminal, url, tmp_path)


@pytest.fixture(scope="session")
def seen(url, tmp_path_factory) -> str:
    """What a terminal showed of a job that was asked for and followed to its end."""
    command = ("convert", "zoo:digits_resnet26", *SHORT, "--max-steps", 40, "--goal", "none")
    folder = tmp_path_factory.mktemp("done")
    shown, code = in_terminal(url, folder, *command, "--name=done", "--tag=kept", "--wait")
    assert code == 0, shown
    return shown


@pytest.fixture
def done_job(seen) -> str:
    """The id of that job."""
    return seen.partition("\n")[0].strip()
