"""The light shell: what it imports, how it ends, and what it says when there is no service."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import time

import pytest
import typer

from api.cli import app
from api.commands.access import local_key
from api.commands.exit_codes import ExitCode
from tests.api.commands.conftest import environment, run_momentum
from tests.conftest import ROOT
from tests.end_to_end.conftest import MOMENTUM

HEAVY = {"torch", "fastapi", "sqlalchemy", "numpy", "pydantic", "celery", "redis", "httpx"}
NOWHERE = "http://127.0.0.1:9"


def commands() -> list[list[str]]:
    """Return every command, with the name of its group before it."""
    root = typer.main.get_command(app)
    found = []
    for name, one in sorted(root.commands.items()):
        inner = sorted(getattr(one, "commands", {}))
        found += [[name, each] for each in inner] if inner else [[name]]
    return found


def test_help_imports_nothing_heavy(tmp_path):
    program = (
        "import sys\nfrom api.cli import app\nsys.argv = ['momentum', '--help']\n"
        "try:\n    app()\nfinally:\n    print('\\n'.join(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=environment(NOWHERE),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0
    assert "convert" in done.stdout
    assert set(done.stderr.split()) & HEAVY == set()


def test_every_command_explains_itself_and_its_arguments(tmp_path):
    root = typer.main.get_command(app)
    for path in commands():
        command = root
        for name in path:
            command = command.commands[name]
        assert command.help, path
        for parameter in command.params:
            if parameter.param_type_name == "option" and parameter.name != "help":
                assert parameter.help, (path, parameter.name)
    done = run_momentum(NOWHERE, tmp_path, "keys", "create", "--help")
    assert "MOMENTUM_KEY" in done.stdout


def test_every_command_that_asks_the_service_can_answer_in_json():
    root = typer.main.get_command(app)
    for path in commands():
        command = root
        for name in path:
            command = command.commands[name]
        options = {one for parameter in command.params for one in parameter.opts}
        if path[0] not in ("serve", "demo", "migrate"):
            assert "--json" in options, path


def test_the_documented_exit_codes_are_these():
    text = (ROOT / "docs" / "cli.md").read_text()
    rows = re.findall(r"^\| (\d+) \| (.+) \|$", text, re.M)
    assert rows == [(str(int(code)), code.meaning) for code in ExitCode]


def test_every_command_is_documented():
    text = (ROOT / "docs" / "cli.md").read_text()
    for path in commands():
        assert f"momentum {' '.join(path)}" in text, path


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("jobs",), ExitCode.NO_SERVICE),
        (("doctor", "--no-such-option"), ExitCode.USAGE),
        (("convert", "zoo:resnet18", "--gamma", "much"), ExitCode.USAGE),
        (("convert", "zoo:resnet18", "--mean", "0.5"), ExitCode.USAGE),
        (("convert", "zoo:resnet18", "--set", "x=1"), ExitCode.USAGE),
        (("convert", "zoo:resnet18", "--goal", "much"), ExitCode.USAGE),
        (("convert", "no-such-file.pt"), ExitCode.FAILED),
        (("convert", "--local", "no-such-file.pt"), ExitCode.FAILED),
    ],
)
def test_what_cannot_be_done_ends_with_its_code_and_one_line(tmp_path, arguments, code):
    asked_at = time.monotonic()
    done = run_momentum(NOWHERE, tmp_path, *arguments)
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert time.monotonic() - asked_at < 60


def test_with_json_an_error_is_json_too(tmp_path):
    done = run_momentum(NOWHERE, tmp_path, "jobs", "--json")
    assert json.loads(done.stderr)["error"]["code"] == "connection_failed"


def test_something_else_at_the_url_is_said_to_be_something_else(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(30)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        asking = subprocess.Popen(
            [MOMENTUM, "zoo"], cwd=tmp_path, env=environment(url), stderr=subprocess.PIPE, text=True
        )
        connection, _ = listener.accept()
        with connection:
            connection.recv(10_000)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nhey!")
            _, said = asking.communicate(timeout=30)
    assert asking.returncode == ExitCode.FAILED
    assert "Momentum Zoo" in said


def test_the_key_of_a_service_of_this_machine_goes_nowhere_else(tmp_path, monkeypatch):
    monkeypatch.setenv("MOMENTUM_DATA_DIR", str(tmp_path))
    assert local_key("http://127.0.0.1:8000") is None
    (tmp_path / "first-key").write_text("mz_secret\n")
    assert local_key("http://127.0.0.1:8000") == "mz_secret"
    assert local_key("http://localhost/zoo") == "mz_secret"
    for other in ("https://example.org", "http://10.0.0.1:8000", "http://127.0.0.1.example.org"):
        assert local_key(other) is None


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_complete_commands(tmp_path, shell):
    words = {"COMP_WORDS": "momentum conv", "COMP_CWORD": "1"}
    if shell != "bash":
        words = {"_TYPER_COMPLETE_ARGS": "momentum conv", "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
    done = run_momentum(NOWHERE, tmp_path, **words, _MOMENTUM_COMPLETE=f"complete_{shell}")
    assert "convert" in done.stdout
