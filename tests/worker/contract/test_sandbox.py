"""The walls around the inspector: nine attacks, as root and not, all walls and each by itself."""

from __future__ import annotations

import errno
import json
import os
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest

import worker.contract.intake as intake
from tests.corpus.torch_files import honest_zip
from tests.worker.contract.sandbox_probes import EXPECTED, MORE_PROBES, NOBODY, PROBES, outcome
from worker.contract import landlock, sandbox, seccomp
from worker.contract.intake import inspect_checkpoint, inspect_dataset, sandbox_report
from worker.contract.sandbox import LAYERS, SandboxError

ON_LINUX = sys.platform == "linux"
pytestmark = pytest.mark.skipif(not ON_LINUX, reason="the walls of other systems are lower")

_IS_ROOT = os.geteuid() == 0
USERS = [None, NOBODY] if _IS_ROOT else [None]
"""The user of these tests and, if that is root, somebody else."""


def test_this_machine_has_every_layer():
    report = sandbox_report()
    assert report.active == LAYERS
    assert report.missing == {}


@pytest.mark.parametrize("user", USERS, ids=str)
@pytest.mark.parametrize("name", [*PROBES, *MORE_PROBES])
def test_no_attack_gets_out(name, user, tmp_path):
    assert outcome(name, tmp_path, user=user) == EXPECTED[name]


def test_there_are_nine_attacks():
    assert len(PROBES) == 9


@pytest.mark.parametrize("name", [name for name in PROBES if name != "endless loop"])
def test_without_walls_the_same_attacks_succeed(name, tmp_path):
    """Or else the test above would prove nothing."""
    # A program in the inspector's place makes no answer.
    expected = "inspection_crashed" if name == "execve" else "done"
    assert outcome(name, tmp_path, layers=()) == expected


# What each wall does by itself; `no_new_privileges` is what a user needs to put up the others.
ALONE = [
    ("seccomp", "socket", "EPERM"),
    ("seccomp", "connect", "EPERM"),
    ("seccomp", "execve", "EPERM"),
    ("seccomp", "fork", "EPERM"),
    ("seccomp", "open outside", "EPERM"),
    ("seccomp", "write outside", "EPERM"),
    ("seccomp", "ptrace", "EPERM"),
    ("seccomp", "executable memory", "EPERM"),
    ("landlock", "open outside", "EACCES"),
    ("landlock", "write outside", "EACCES"),
    ("landlock", "connect", "EACCES"),
    ("landlock", "signal to the parent", "EPERM"),
    ("resource_limits", "open outside", "EMFILE"),
    ("resource_limits", "write outside", "EMFILE"),
    ("resource_limits", "socket", "EMFILE"),
    ("resource_limits", "2 GiB allocation", "too_complex"),
]


@pytest.mark.parametrize("user", USERS, ids=str)
@pytest.mark.parametrize(("layer", "name", "expected"), ALONE)
def test_each_layer_holds_by_itself(layer, name, expected, user, tmp_path):
    layers = (layer, "no_new_privileges")
    assert outcome(name, tmp_path, layers=layers, user=user) == expected


def test_a_user_without_rights_may_start_no_process(tmp_path):
    user = NOBODY if _IS_ROOT else None
    assert outcome("fork", tmp_path, layers=("resource_limits",), user=user) == "EAGAIN"


@pytest.mark.skipif(not _IS_ROOT, reason="only root has something to lose")
def test_root_loses_its_rights(tmp_path):
    assert outcome("chroot", tmp_path, layers=("capabilities",)) == "EPERM"


def child(program: str, **options) -> subprocess.CompletedProcess[str]:
    """Run a program that has `close` (all walls but those that hide its answer)."""
    start = (
        "import os, sys, resource, ctypes, errno\n"
        "from worker.contract.sandbox import Allowance, LAYERS, close_sandbox\n"
        "def close(*layers, cpu_seconds=60, output_bytes=1 << 20):\n"
        "    limits = {'cpu_seconds': cpu_seconds, 'output_bytes': output_bytes}\n"
        "    allowance = Allowance(file_bytes=0, **limits)\n"
        "    close_sandbox(allowance, keep=(1, 2), layers=layers or LAYERS)\n"
    )
    return subprocess.run(
        [sys.executable, "-c", start + program], capture_output=True, text=True, **options
    )


def test_the_limit_on_processor_time_ends_a_loop_without_the_parents_clock():
    done = child("close('resource_limits', cpu_seconds=1)\nwhile True: pass")
    assert done.returncode in (-signal.SIGKILL, -signal.SIGXCPU)


def test_a_file_grows_no_further_than_its_allowance(tmp_path):
    done = child(
        f"descriptor = os.open({str(tmp_path / 'written')!r}, os.O_WRONLY | os.O_CREAT)\n"
        "close('resource_limits', output_bytes=1000)\n"
        "print(os.write(descriptor, bytes(5000)))\n"
        "os.write(descriptor, bytes(1))\n"
    )
    assert done.stdout == "1000\n"
    assert "File too large" in done.stderr


def test_limits_and_flags_are_set():
    done = child(
        "kinds = [resource.RLIMIT_CORE, resource.RLIMIT_NOFILE, resource.RLIMIT_NPROC]\n"
        "status = os.open('/proc/self/status', os.O_RDONLY)\n"
        "close('resource_limits', 'capabilities', 'no_new_privileges')\n"
        "print([resource.getrlimit(kind) for kind in kinds])\n"
        "print(os.pread(status, 10_000, 0).decode())"
    )
    assert done.stdout.startswith("[(0, 0), (0, 0), (0, 0)]\n")
    status = dict(line.split(":\t") for line in done.stdout.splitlines() if ":\t" in line)
    assert status["NoNewPrivs"] == "1"
    assert {status[name] for name in ("CapEff", "CapPrm", "CapInh")} == {"0000000000000000"}


def test_descriptors_that_are_not_kept_are_closed():
    done = child(
        "extra = os.dup(1)\n"
        "close('descriptors')\n"
        "print([number for number in range(100) if os.path.exists(f'/proc/self/fd/{number}')])\n"
    )
    assert json.loads(done.stdout) == [1, 2]


# Name, number on x86_64, on aarch64.
_REFUSED = """
socket 41 198, socketpair 53 199, connect 42 203, bind 49 200, sendto 44 206, sendmsg 46 211,
accept4 288 242, execve 59 221, execveat 322 281, clone 56 220, clone3 435 435,
ptrace 101 117, process_vm_readv 310 270, process_vm_writev 311 271, kill 62 129,
tgkill 234 131, unshare 272 97, setns 308 268, mount 165 40, umount2 166 39, chroot 161 51,
pivot_root 155 41, openat 257 56, openat2 437 437, open_by_handle_at 304 265,
io_uring_setup 425 425, io_uring_enter 426 426, bpf 321 280, perf_event_open 298 241,
userfaultfd 323 282, keyctl 250 219, memfd_create 319 279, prctl 157 167, seccomp 317 277,
unlinkat 263 35, mkdirat 258 34, symlinkat 266 36, linkat 265 37, renameat2 316 276,
fchmodat 268 53, fchownat 260 54, newfstatat 262 79, setuid 105 146, setresuid 117 147,
capset 126 91, prlimit64 302 261, dup 32 23, pipe2 293 59, ioctl 16 29, fcntl 72 25,
init_module 175 105, kexec_load 246 104, reboot 169 142, shmget 29 194, mq_open 240 180,
pidfd_getfd 438 438, landlock_create_ruleset 444 444
"""
REFUSED_CALLS = {
    name: (int(first), int(second))
    for name, first, second in (entry.split() for entry in _REFUSED.split(","))
}
_AUDIT = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_ALLOW, _EPERM, _KILL = 0x7FFF0000, 0x00050001, 0x80000000


def judged(machine: str, number: int, *, audit: int | None = None, third: int = 0) -> int:
    """Run the filter on one call, as the kernel would."""
    program = list(struct.iter_unpack("=HBBI", seccomp.filter_program(machine)))
    data = {0: number, 4: _AUDIT[machine] if audit is None else audit, 32: third}
    at, loaded = 0, 0
    while True:
        code, if_true, if_false, operand = program[at]
        at += 1
        if code == 0x06:
            return operand
        if code == 0x20:
            loaded = data[operand]
        else:
            holds = {
                0x15: loaded == operand,
                0x35: loaded >= operand,
                0x45: bool(loaded & operand),
            }[code]
            at += if_true if holds else if_false


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_the_filter_refuses_all_but_a_few_calls(machine):
    column = list(_AUDIT).index(machine)
    for name, numbers in REFUSED_CALLS.items():
        assert judged(machine, numbers[column]) == _EPERM, name
    allowed = [number for number in range(1024) if judged(machine, number) == _ALLOW]
    assert len(allowed) == 27
    assert judged(machine, {"x86_64": 0, "aarch64": 63}[machine]) == _ALLOW
    # Calls of another processor's numbering end the process; so a list cannot be evaded by it.
    assert judged(machine, allowed[0], audit=0x40000003) == _KILL
    assert judged(machine, 0x40000000 | allowed[0]) == _EPERM


@pytest.mark.parametrize(("machine", "calls"), [("x86_64", (9, 10)), ("aarch64", (222, 226))])
def test_memory_is_given_but_none_that_can_be_run(machine, calls):
    for number in calls:
        assert judged(machine, number, third=0b011) == _ALLOW
        assert judged(machine, number, third=0b111) == _EPERM


def test_the_kernel_refuses_those_calls():
    """All at once in one process, each with arguments of zero."""
    column = 0 if os.uname().machine == "x86_64" else 1
    numbers = [numbers[column] for numbers in REFUSED_CALLS.values()]
    done = child(
        "libc = ctypes.CDLL(None, use_errno=True)\n"
        "close()\n"
        "met = []\n"
        f"for number in {numbers}:\n"
        "    answer = libc.syscall(ctypes.c_long(number), *[ctypes.c_long(0)] * 6)\n"
        "    met.append((answer, ctypes.get_errno()))\n"
        "sys.stdout.write(repr(met)); sys.stdout.flush(); os._exit(0)\n"
    )
    assert eval(done.stdout) == [(-1, errno.EPERM)] * len(numbers)


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        (1, [(1 << 13) - 1]),
        (2, [(1 << 14) - 1]),
        (3, [(1 << 15) - 1]),
        (4, [(1 << 15) - 1, 3]),
        (5, [(1 << 16) - 1, 3]),
        (7, [(1 << 16) - 1, 3, 3]),
    ],
)
def test_landlock_takes_every_right_that_a_version_knows(known, expected):
    assert [value for (value,) in struct.iter_unpack("=Q", landlock.ruleset(known))] == expected


BROKEN = """
import errno
from worker.contract import inspector_host, landlock, sandbox, seccomp
def broken(*_):
    raise OSError(errno.EINVAL, "EINVAL")
{place} = broken
inspector_host.main()
"""


@pytest.mark.parametrize(
    "place",
    [
        *("landlock.install", "seccomp.install", "sandbox._drop_capabilities"),
        *("sandbox._limit_resources", "sandbox.close_descriptors", "sandbox._prctl"),
    ],
)
def test_without_a_layer_that_should_be_there_nothing_is_inspected(place, monkeypatch, tmp_path):
    (tmp_path / "sent").write_bytes(honest_zip())
    command = (*intake.COMMAND[:-2], "-c", BROKEN.format(place=place))
    monkeypatch.setattr(intake, "COMMAND", command)
    with pytest.raises(SandboxError, match="cannot be put up"):
        inspect_checkpoint(tmp_path / "sent", tmp_path / "canonical")
    with pytest.raises(SandboxError, match="cannot be put up"):
        inspect_dataset(tmp_path / "sent", tmp_path / "canonical")
    assert list(tmp_path.iterdir()) == [tmp_path / "sent"]


def test_a_kernel_without_landlock_is_said_and_the_rest_stands(monkeypatch, tmp_path):
    program = (
        "from worker.contract import inspector_host, landlock;"
        "landlock.version = lambda: 0; inspector_host.main()"
    )
    monkeypatch.setattr(intake, "COMMAND", (*intake.COMMAND[:-2], "-c", program))
    report = sandbox_report()
    assert report.missing == {"landlock": "the kernel has none, or the container forbids it"}
    assert report.active == tuple(name for name in LAYERS if name != "landlock")
    (tmp_path / "sent").write_bytes(honest_zip())
    assert inspect_checkpoint(tmp_path / "sent", tmp_path / "canonical").num_classes == 10


@pytest.mark.parametrize(
    ("platform", "missing"),
    [
        ("darwin", {"capabilities", "no_new_privileges", "landlock", "seccomp"}),
        ("linux", set()),
    ],
)
def test_other_systems_say_what_they_lack(platform, missing, monkeypatch):
    monkeypatch.setattr(sandbox.sys, "platform", platform)
    assert {name for name in LAYERS if sandbox._why_missing(name)} == missing


def test_another_processor_lacks_only_the_filter(monkeypatch):
    monkeypatch.setattr(seccomp.platform, "machine", lambda: "riscv64")
    assert {name for name in LAYERS if sandbox._why_missing(name)} == {"seccomp"}


def test_an_inspector_dies_with_the_process_that_started_it(tmp_path):
    note = tmp_path / "pid"
    inspector = (
        "import os; from worker.contract import inspector, inspector_host\n"
        "def endless(*_, **__):\n"
        "    while True: pass\n"
        "def close(*_, **__):\n"
        f"    open({str(note)!r}, 'w').write(str(os.getpid()))\n"
        "    wall(*_, **__)\n"
        "wall, inspector.close_sandbox = inspector.close_sandbox, close\n"
        "inspector.inspect_open_checkpoint = endless\n"
        "inspector_host.main()\n"
    )
    (tmp_path / "sent").write_bytes(b"x")
    parent = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "from pathlib import Path; import worker.contract.intake as intake\n"
            f"intake.COMMAND = (*intake.COMMAND[:-2], '-c', {inspector!r})\n"
            f"intake.inspect_checkpoint(Path({str(tmp_path / 'sent')!r}), Path('/tmp/none'))\n",
        ]
    )
    while not note.exists() or not note.read_text() or not _is_closed(note.read_text()):
        time.sleep(0.01)
        assert parent.poll() is None
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 60
    while _is_closed(note.read_text()):
        assert time.monotonic() < deadline, "the inspector outlived its parent"
        time.sleep(0.01)


def _is_closed(process: str) -> bool:
    """Whether a process lives and has its filter."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return "Seccomp:\t2" in status and "State:\tZ" not in status
