"""The child process around the reader: what it answers, and what happens when it cannot."""

from __future__ import annotations

import concurrent.futures
import errno
import hashlib
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import safetensors.numpy

import worker.contract.intake as intake
from momentum_core.errors import ArchitectureError, CheckpointError, DataError
from tests.corpus.case import MARKER
from tests.corpus.cases import CASES
from tests.corpus.npz_files import honest_npz
from tests.corpus.safetensors_files import honest_safetensors
from tests.corpus.torch_files import honest_legacy, honest_zip
from tests.corpus.torch_forms import weights
from worker.contract.intake import (
    CheckpointFacts,
    SandboxError,
    inspect_checkpoint,
    inspect_dataset,
)


@pytest.fixture
def sent(tmp_path) -> Path:
    return tmp_path / "sent"


@pytest.mark.parametrize(
    ("honest", "form"),
    [
        (honest_zip, "torch_zip"),
        (honest_legacy, "torch_legacy"),
        (honest_safetensors, "safetensors"),
    ],
)
def test_an_honest_file_becomes_canonical_safetensors(honest, form, sent, tmp_path):
    sent.write_bytes(honest())
    target = tmp_path / "canonical"
    facts = inspect_checkpoint(sent, target)

    assert facts.format == form
    assert (facts.architecture, facts.architecture_found) == ("cifar_resnet20", True)
    assert (facts.num_classes, facts.num_tensors, facts.num_parameters) == (10, 116, 269_722)
    assert facts.sha256 == hashlib.sha256(honest()).hexdigest()
    assert CheckpointFacts.from_json(facts.to_json()) == facts
    read = safetensors.numpy.load_file(target)
    assert {name: array.tobytes() for name, array in read.items()} == {
        name: array.tobytes() for name, array in weights().items()
    }
    assert sorted(tmp_path.iterdir()) == [target, sent]


@pytest.mark.parametrize("kind", ["checkpoint", "dataset", "archive"])
def test_a_refusal_leaves_nothing(kind, sent, tmp_path):
    """One of each kind; all of them go through the service in tests/intake."""
    case = next(case for case in CASES if case.kind == kind)
    sent.write_bytes(case.build())
    inspect, refusal = {"checkpoint": (inspect_checkpoint, CheckpointError)}.get(
        kind, (inspect_dataset, DataError)
    )
    with pytest.raises(refusal) as caught:
        inspect(sent, tmp_path / "canonical")
    assert caught.value.code == case.code
    assert list(tmp_path.iterdir()) == [sent]
    assert not MARKER.exists()


def test_an_honest_data_set_is_accepted_and_its_labels_compared(sent, tmp_path):
    sent.write_bytes(honest_npz())
    assert inspect_dataset(sent, tmp_path / "canonical", num_classes=3).num_classes == 3
    with pytest.raises(DataError, match="2 classes"):
        inspect_dataset(sent, tmp_path / "canonical", num_classes=2)
    assert list(tmp_path.iterdir()) == [sent]


def test_a_named_architecture_is_checked(sent, tmp_path):
    sent.write_bytes(honest_zip())
    facts = inspect_checkpoint(sent, tmp_path / "canonical", architecture="cifar_resnet20")
    assert not facts.architecture_found
    for wrong, code in (("resnet50", "architecture_mismatch"), ("x", "unknown_architecture")):
        with pytest.raises(ArchitectureError) as caught:
            inspect_checkpoint(sent, tmp_path / "other", architecture=wrong)
        assert caught.value.code == code
    assert "fit cifar_resnet20" not in str(caught.value)


def test_several_threads_may_inspect_at_once(tmp_path):
    contents = [honest_zip(), honest_legacy(), honest_safetensors(), b"text"] * 3

    def inspect(index: int) -> str:
        sent = tmp_path / f"sent{index}"
        sent.write_bytes(contents[index])
        try:
            return inspect_checkpoint(sent, tmp_path / f"canonical{index}").format
        except CheckpointError as error:
            return error.code

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(inspect, range(len(contents))))
    expected = ["torch_zip", "torch_legacy", "safetensors", "unsupported_format"] * 3
    assert answers == expected


def _child(monkeypatch, program: str) -> None:
    """Put another program in the child's place."""
    host = (
        "from worker.contract import inspector, inspector_host\n"
        "def main(files):\n"
        f"    exec({program!r})\n"
        "    return 0\n"
        "inspector.main = main\n"
        "inspector_host.main()\n"
    )
    monkeypatch.setattr(intake, "COMMAND", (*intake.COMMAND[:-2], "-c", host))


@pytest.mark.parametrize(
    ("program", "code"),
    [
        ("import os; os.kill(os.getpid(), 11)", "inspection_crashed"),
        ("import os; os.kill(os.getpid(), 9)", "too_complex"),
        ("raise SystemExit(3)", "inspection_crashed"),
        ("print('{\"facts\": 1')", "inspection_crashed"),
        ("print('[1]')", "inspection_crashed"),
        ("print('{}')", "inspection_crashed"),
        ('print(\'{"facts": {"format": 1}}\')', "inspection_crashed"),
        ('print(\'{"error": {"kind": "ValueError"}}\')', "inspection_crashed"),
        ('print(\'{"error": {"kind": "OSError", "code": "x"}}\')', "inspection_crashed"),
        ("print('[' * 200_000)", "inspection_crashed"),
        ("while True: print('x' * (1 << 20))", "inspection_crashed"),
        ("import os, time; os.close(1); time.sleep(60)", "too_complex"),
    ],
)
def test_a_child_that_breaks_is_a_refusal(program, code, monkeypatch, sent, tmp_path):
    _child(monkeypatch, program)
    # Until the inspector has started, too.
    monkeypatch.setattr(intake, "BASE_SECONDS", 5.0 if "sleep" in program else 60.0)
    sent.write_bytes(honest_zip())
    with pytest.raises(CheckpointError) as caught:
        inspect_checkpoint(sent, tmp_path / "canonical")
    assert caught.value.code == code
    assert list(tmp_path.iterdir()) == [sent]
    with pytest.raises(DataError) as caught_data:
        inspect_dataset(sent, tmp_path / "canonical")
    assert caught_data.value.code == code


def test_a_full_disk_is_not_the_files_fault(monkeypatch, sent, tmp_path):
    program = (
        "import errno; from worker.contract import inspector, inspector_host\n"
        "def full(*_, **__):\n"
        "    raise OSError(errno.ENOSPC, 'No space left on device')\n"
        "inspector.inspect_open_checkpoint = full\n"
        "inspector_host.main()\n"
    )
    monkeypatch.setattr(intake, "COMMAND", (*intake.COMMAND[:-2], "-c", program))
    sent.write_bytes(honest_zip())
    with pytest.raises(OSError, match="No space left") as caught:
        inspect_checkpoint(sent, tmp_path / "canonical")
    assert caught.value.errno == errno.ENOSPC
    assert list(tmp_path.iterdir()) == [sent]


def test_a_child_that_does_not_end_is_killed_with_all_it_started(monkeypatch, sent, tmp_path):
    note, warm = tmp_path / "pid", tmp_path / "warm"
    _child(
        monkeypatch,
        "import os, subprocess, time\n"
        f"if not os.path.exists({str(warm)!r}):\n"
        f"    open({str(warm)!r}, 'w').close()\n"
        "    raise SystemExit(3)\n"
        "child = subprocess.Popen(['sleep', '600'])\n"
        f"open({str(note)!r}, 'w').write(str(child.pid))\n"
        "time.sleep(600)\n",
    )
    sent.write_bytes(honest_zip())
    monkeypatch.setattr(intake, "BASE_SECONDS", 120.0)
    with pytest.raises(CheckpointError):  # what inspectors come from starts, however long it takes
        inspect_checkpoint(sent, tmp_path / "canonical")
    monkeypatch.setattr(intake, "BASE_SECONDS", 5.0)
    started = time.monotonic()
    with pytest.raises(CheckpointError) as caught:
        inspect_checkpoint(sent, tmp_path / "canonical")
    assert caught.value.code == "too_complex"
    assert time.monotonic() - started < 60
    _wait_until_ended(int(note.read_text()))


def _wait_until_ended(process: int) -> None:
    deadline = time.monotonic() + 60  # a killed process ends when it is its turn
    while _lives(process):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _lives(process: int) -> bool:
    try:
        return "zombie" not in Path(f"/proc/{process}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_the_child_gets_nothing_of_this_process_but_its_files(monkeypatch, sent, tmp_path):
    monkeypatch.setenv("MOMENTUM_SECRET", "x")
    secret = os.open("/dev/null", os.O_RDONLY)
    os.set_inheritable(secret, True)
    _child(
        monkeypatch,
        "import os, sys; sys.stderr.write('x'); names = sorted(os.environ);"
        "files = [int(name) for name in os.listdir('/proc/self/fd')];"
        f"open({str(tmp_path / 'seen')!r}, 'w').write(repr((names, {secret} in files, os.getcwd(),"
        "os.getsid(0) == os.getpid())))",
    )
    sent.write_bytes(honest_zip())
    with pytest.raises(CheckpointError):
        inspect_checkpoint(sent, tmp_path / "canonical")
    os.close(secret)
    names, has_secret, folder, leads_session = eval((tmp_path / "seen").read_text())
    assert set(names) <= {
        *("LC_ALL", "LC_CTYPE", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "PYTHONPATH"),
    }
    assert (has_secret, folder, leads_session) == (False, "/", True)


def test_each_file_gets_a_process_that_no_file_has_touched(monkeypatch, sent, tmp_path):
    _child(
        monkeypatch,
        "import builtins, os\n"
        "before = getattr(builtins, 'touched', None)\n"
        "builtins.touched = os.getpid()\n"
        f"open({str(tmp_path / 'seen')!r}, 'a').write(repr((before, os.getpid())) + '\\n')",
    )
    sent.write_bytes(honest_zip())
    for _ in range(3):
        with pytest.raises(CheckpointError):
            inspect_checkpoint(sent, tmp_path / "canonical")
    seen = [eval(line) for line in (tmp_path / "seen").read_text().splitlines()]
    assert [before for before, _ in seen] == [None] * 3
    assert len({process for _, process in seen}) == 3


def test_when_the_host_is_killed_the_file_is_not_to_blame_and_the_next_is_read(
    monkeypatch, sent, tmp_path
):
    note = tmp_path.parent / "pid"
    _child(
        monkeypatch,
        f"import os, time; open({str(note)!r}, 'w').write(str(os.getpid()));"
        "os.kill(os.getppid(), 9); time.sleep(60)",
    )
    sent.write_bytes(honest_zip())
    with pytest.raises(SandboxError, match="send the file again"):
        inspect_checkpoint(sent, tmp_path / "canonical")
    assert list(tmp_path.iterdir()) == [sent]
    _wait_until_ended(int(note.read_text()))
    monkeypatch.undo()
    assert inspect_checkpoint(sent, tmp_path / "canonical").num_classes == 10
    host = intake._inspectors()._host  # asked once more, there might be another one already
    host.kill()
    host.wait()
    assert inspect_checkpoint(sent, tmp_path / "canonical").num_classes == 10


def test_a_forked_process_has_a_host_of_its_own(sent, tmp_path):
    """Or else two processes would talk over each other, and one could outlive the other's."""
    program = (
        "import os; from pathlib import Path; import worker.contract.intake as intake\n"
        f"sent, target = Path({str(sent)!r}), Path({str(tmp_path)!r})\n"
        "def host():\n"
        "    intake.inspect_checkpoint(sent, target / str(os.getpid()))\n"
        "    return intake._inspectors()._host.pid\n"
        "first = host()\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    os._exit(host() == first)\n"
        "assert os.waitpid(child, 0)[1] == 0\n"
        "assert host() == first\n"
    )
    sent.write_bytes(honest_zip())
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_no_host_outlives_its_process(sent, tmp_path):
    program = (
        "import os; from pathlib import Path; import worker.contract.intake as intake\n"
        f"intake.inspect_checkpoint(Path({str(sent)!r}), Path({str(tmp_path / 'canonical')!r}))\n"
        "print(intake._inspectors()._host.pid, flush=True)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    sent.write_bytes(honest_zip())
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    _wait_until_ended(int(done.stdout))


def test_the_childs_modules_do_not_include_torch():
    program = "import sys, worker.contract.inspector_host; print(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not {"torch", "torchvision", "safetensors", "pickle"} & set(done.stdout.split()) - {
        "pickle"
    }


def test_a_link_is_not_followed(sent, tmp_path):
    real = tmp_path / "real"
    real.write_bytes(honest_zip())
    sent.symlink_to(real)
    with pytest.raises(OSError, match="symbolic link"):
        inspect_checkpoint(sent, tmp_path / "canonical")


def test_an_existing_target_is_replaced_only_by_a_whole_file(sent, tmp_path):
    target = tmp_path / "canonical"
    target.write_bytes(b"before")
    sent.write_bytes(b"text")
    with pytest.raises(CheckpointError):
        inspect_checkpoint(sent, target)
    assert target.read_bytes() == b"before"
    sent.write_bytes(honest_zip())
    inspect_checkpoint(sent, target)
    assert len(target.read_bytes()) > 1_000_000


@pytest.mark.shared_data
@pytest.mark.parametrize(
    ("name", "architecture"),
    [("resnet20-12fca82f.th", "cifar_resnet20"), ("resnet56-4bfd9763.th", "cifar_resnet56")],
)
def test_published_files_are_found_and_kept_bit_for_bit(name, architecture, shared_data, tmp_path):
    import safetensors.torch
    import torch

    facts = inspect_checkpoint(shared_data / name, tmp_path / "canonical")
    assert (facts.architecture, facts.architecture_found) == (architecture, True)
    assert (facts.num_classes, facts.format) == (10, "torch_legacy")
    assert facts.ignored == ("best_prec1",)
    expected = torch.load(shared_data / name, map_location="cpu", weights_only=True)["state_dict"]
    read = safetensors.torch.load_file(tmp_path / "canonical")
    counters = {key for key in read if key.endswith("num_batches_tracked")}
    assert {f"module.{key}" for key in set(read) - counters} == set(expected)
    assert all(torch.equal(read[key], expected[f"module.{key}"]) for key in set(read) - counters)
    assert all(read[key].item() == 0 for key in counters)
