"""Commands on jobs, piped, against a running service."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import time

import pytest

from api.commands.exit_codes import ExitCode
from tests.api.commands.conftest import ESCAPE, SHORT, environment
from tests.end_to_end.conftest import MOMENTUM


@pytest.fixture
def interrupt(url, tmp_path):
    """Run a command, and press Ctrl-C after its first line."""

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        process = subprocess.Popen(
            [MOMENTUM, *arguments],
            cwd=tmp_path,
            env=environment(url),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # As in a terminal: whoever runs the tests in the background has Ctrl-C ignored.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        with process:
            line = process.stdout.readline()
            process.send_signal(signal.SIGINT)
            rest, said = process.communicate(timeout=30)
        return subprocess.CompletedProcess(arguments, process.returncode, line + rest, said)

    return run


def test_a_conversion_is_waited_for_and_shown(momentum, done_job):
    done = momentum("show", done_job)
    assert done.returncode == ExitCode.OK
    assert done.stdout.startswith("job ")
    assert done_job in done.stdout
    for words in (
        "succeeded",
        "digits_resnet26",
        "activation memory",
        "->",
        "top-1 of 500",
    ):
        assert words in done.stdout
    shown = json.loads(momentum("show", "done", "--json").stdout)
    assert (shown["id"], shown["name"], shown["tags"]) == (done_job, "done", ["kept"])
    assert json.loads(momentum("show", done_job[:10], "--json").stdout)["id"] == done_job


def test_jobs_are_listed_and_found(momentum, done_job):
    lines = momentum("jobs", "--tag", "kept").stdout.splitlines()
    assert lines[0].split() == ["id", "name", "state", "network", "memory", "took", "created"]
    assert [line.split()[:3] for line in lines[1:]] == [[done_job, "done", "succeeded"]]
    found = json.loads(momentum("jobs", "--json", "--state", "succeeded", "--text", "don").stdout)
    assert [job["id"] for job in found["jobs"]] == [done_job]
    assert json.loads(momentum("jobs", "--json", "--tag", "none").stdout) == {"jobs": []}
    wrong = momentum("jobs", "--state", "bogus")
    assert (wrong.returncode, "queued" in wrong.stderr) == (ExitCode.USAGE, True)


def test_its_events_are_lines(momentum, done_job):
    done = momentum("watch", done_job)
    assert done.returncode == ExitCode.OK
    words = [line.split("  ", 1)[1] for line in done.stdout.splitlines() if line[2:3] == ":"]
    assert words[:4] == ["queued", "started", "loading ...", "planning ..."]
    assert words[-1] == "succeeded"
    events = [
        json.loads(line) for line in momentum("watch", done_job, "--json").stdout.splitlines()
    ]
    assert [event["number"] for event in events] == list(range(1, len(events) + 1))
    assert events[-1]["kind"] == "succeeded"


def test_its_files_are_downloaded_and_right(momentum, done_job, tmp_path):
    done = momentum("download", done_job)
    folder = tmp_path / done_job[:8]
    names = ["model.safetensors", "report.html", "report.json"]
    assert sorted(one.name for one in folder.iterdir()) == names
    assert done.stdout.split() == [f"{done_job[:8]}/{name}" for name in names]
    everything = json.loads(momentum("download", done_job, "--all", "-o", "all", "--json").stdout)
    stated = {
        one["name"]: one["sha256"]
        for one in json.loads(momentum("show", done_job, "--json").stdout)["artifacts"]
    }
    assert len(everything["files"]) == len(stated) > 5
    for path in everything["files"]:
        content = (tmp_path / path).read_bytes()
        assert hashlib.sha256(content).hexdigest() == stated[path.partition("/")[2]]
    missing = momentum("download", done_job, "--file", "nothing")
    assert (missing.returncode, "it has bundle.zip" in missing.stderr) == (ExitCode.NOT_FOUND, True)


@pytest.fixture
def paused(momentum):
    """No job starts meanwhile."""
    momentum("queues", "pause", "momentum-convert")
    yield
    momentum("queues", "resume", "momentum-convert")


def test_a_job_is_cancelled_waited_for_repeated_and_forgotten(momentum, interrupt, paused):
    job_id = momentum("convert", "zoo:digits_resnet26", "--name", "long").stdout.strip()
    late = momentum("watch", job_id, "--timeout", 1)
    assert (late.returncode, "it goes on" in late.stderr) == (ExitCode.TIMEOUT, True)
    interrupted = interrupt("watch", job_id)
    assert (interrupted.returncode, interrupted.stderr) == (ExitCode.INTERRUPTED, "")
    unfinished = momentum("download", job_id)
    assert (unfinished.returncode, "job_not_finished" in unfinished.stderr) == (1, True)
    cancelled = momentum("cancel", job_id)
    assert (cancelled.returncode, job_id in cancelled.stdout) == (ExitCode.OK, True)
    assert momentum("watch", job_id).returncode == ExitCode.JOB_CANCELLED
    again = json.loads(momentum("retry", "long", "--json").stdout)
    assert again["retry_of"] == job_id
    two = momentum("show", "long")
    assert (two.returncode, "2 jobs are meant" in two.stderr) == (ExitCode.FAILED, True)
    assert (
        json.loads(momentum("cancel", again["id"], "--json").stdout)["jobs"][0]["id"] == again["id"]
    )
    assert momentum("watch", again["id"], "--json").returncode == ExitCode.JOB_CANCELLED
    forgotten = momentum("delete", job_id, again["id"])
    assert forgotten.stdout.count("is forgotten") == 2
    assert momentum("show", job_id).returncode == ExitCode.NOT_FOUND


def test_a_job_that_fails_says_why(momentum):
    done = momentum("convert", "zoo:resnet18", "--wait")
    assert done.returncode == ExitCode.JOB_FAILED
    assert "zoo_unavailable" in done.stdout
    assert "resnet18-f37072fd.pth" in done.stdout
    document = momentum("retry", "--wait", "--json", done.stdout.partition("\n")[0])
    assert document.returncode == ExitCode.JOB_FAILED
    assert json.loads(document.stdout)["error"]["code"] == "zoo_unavailable"


def test_jobs_are_compared(momentum, done_job):
    twice = momentum("compare", "done", done_job[:9])
    assert twice.returncode == ExitCode.OK, twice.stderr
    lines = {line.split()[0]: line.split()[1:] for line in twice.stdout.splitlines()[1:]}
    assert lines["architecture"] == ["digits_resnet26", "digits_resnet26"]
    assert lines["top1_percent.original"] == ["99.20", "%", "99.20", "%"]
    found = json.loads(momentum("compare", done_job, done_job, "--json").stdout)
    assert (len(found["jobs"]), found["request_differences"]) == (2, [])
    assert momentum("compare", done_job).returncode == ExitCode.USAGE
    assert momentum("compare", done_job, "f" * 32).returncode == ExitCode.NOT_FOUND


def test_a_conversion_is_inspected_before(momentum):
    quick = ("--no-refine", *SHORT[: SHORT.index("refinement.calibrate=false") - 1])
    done = momentum("inspect", "zoo:digits_resnet26", *quick, "--gamma", "0.25")
    assert done.returncode == ExitCode.OK, done.stderr
    assert "11 residual blocks in 2 runs would be converted" in done.stdout
    [row] = [line for line in done.stdout.splitlines() if line.startswith("layer1.0 ")]
    words = ["layer1.0", "..", "layer1.5", "converted", "1/4", "reverse"]
    assert row.split()[:6] == words
    wrong = momentum("inspect", "zoo:resnet5", "--json")
    assert json.loads(wrong.stderr)["error"]["code"] == "unknown_zoo_entry"


def test_a_refusal_is_told_with_its_code(momentum, tmp_path):
    (tmp_path / "evil.pt").write_bytes(b"\x80\x04cos\nsystem\n")
    assert momentum("convert", "evil.pt").returncode == ExitCode.FAILED
    wrong = momentum("convert", "zoo:resnet18", "--set", "refinement.max_step=3")
    assert wrong.returncode == ExitCode.USAGE
    assert "did you mean refinement.max_steps" in wrong.stderr
    near = momentum("convert", "zoo:resnet5")
    assert "did you mean resnet50" in near.stderr


def test_a_reader_that_leaves_early_is_no_error(url, tmp_path, done_job):
    done = subprocess.run(
        f"'{MOMENTUM}' watch {done_job} | head -1",
        shell=True,
        cwd=tmp_path,
        env=environment(url),
        capture_output=True,
        text=True,
        check=True,
    )
    assert "queued" in done.stdout
    assert "Traceback" not in done.stderr


def test_in_a_terminal_there_are_bars_and_colours(seen, terminal, done_job):
    for words in (ESCAPE, "waiting for a worker", "▸", "✓", "refining", "step ", " loss ", "100 %"):
        assert words in seen, words
    assert "top-1 of 500 test images" in seen
    assert "momentum download" in seen
    shown, code = terminal("jobs", "--tag", "kept")
    assert (code, f"{ESCAPE}[32msucceeded" in shown) == (ExitCode.OK, True)
    assert done_job[:8] in shown
    assert done_job not in shown
    shown, _ = terminal("download", done_job, "--all")
    assert "model.safetensors" in shown
    shown, _ = terminal("watch", done_job)
    assert "100 %" in shown


@pytest.mark.parametrize("how", ["--key", "MOMENTUM_KEY"])
def test_a_key_is_sent(momentum, how):
    if how == "--key":
        done = momentum("limits", "--key", "mz_wrong")
    else:
        done = momentum("limits", MOMENTUM_KEY="mz_wrong")
    assert (done.returncode, "invalid_key" in done.stderr) == (ExitCode.NOT_ALLOWED, True)


def test_keys_are_made_listed_and_revoked(momentum):
    made = momentum("keys", "create", "laptop", "--scope", "read", "--days", 1)
    secret = made.stdout.strip()
    assert secret.startswith("mz_")
    assert momentum("limits", MOMENTUM_KEY=secret).returncode == ExitCode.OK
    refused = momentum("keys", "list", MOMENTUM_KEY=secret)
    assert refused.returncode == ExitCode.NOT_ALLOWED
    [key] = [
        one
        for one in json.loads(momentum("keys", "list", "--json").stdout)["keys"]
        if one["name"] == "laptop"
    ]
    assert "laptop" in momentum("keys", "list").stdout
    assert momentum("keys", "revoke", key["id"]).returncode == ExitCode.OK
    time.sleep(1.1)  # docs/api.md: in other processes, within a second
    assert momentum("limits", MOMENTUM_KEY=secret).returncode == ExitCode.NOT_ALLOWED
    assert momentum("keys", "revoke", "nothing").returncode == ExitCode.NOT_FOUND
    made = json.loads(momentum("keys", "create", "json", "--tenant", "team", "--json").stdout)
    assert (made["tenant"], made["scopes"]) == ("team", ["read", "write"])


def test_webhooks_are_made_listed_and_deleted(momentum):
    made = momentum("webhooks", "create", "https://1.1.1.1/hook", "--event", "cancelled")
    assert made.stdout.startswith("whsec_")
    [hook] = json.loads(momentum("webhooks", "list", "--json").stdout)["webhooks"]
    assert hook["id"] in momentum("webhooks", "list").stdout
    deliveries = momentum("webhooks", "deliveries", hook["id"], "--json")
    assert json.loads(deliveries.stdout) == {"deliveries": []}
    unknown = momentum("webhooks", "redeliver", hook["id"], 1)
    assert unknown.returncode == ExitCode.NOT_FOUND
    assert momentum("webhooks", "delete", hook["id"]).returncode == ExitCode.OK
    assert momentum("webhooks", "create", "http://127.0.0.1/").returncode == ExitCode.FAILED


def test_the_service_says_what_it_has(momentum):
    lines = momentum("zoo", "digits").stdout.splitlines()
    assert lines[1].split()[:2] == ["digits_resnet26.DIGITS", "digits_resnet26"]
    entries = json.loads(momentum("zoo", "resnet50", "--json").stdout)["entries"]
    assert all("resnet50" in one["name"] for one in entries)
    assert "unfinished jobs" in momentum("limits").stdout
    assert json.loads(momentum("limits", "--json").stdout)["max_unfinished_jobs"] == 1000
    assert json.loads(momentum("version", "--json").stdout)["service"]["version"]


def test_whoever_runs_the_service_sees_who_works_and_what_was_done(momentum, done_job):
    [worker] = [
        one
        for one in json.loads(momentum("workers", "list", "--json").stdout)["workers"]
        if "momentum-convert" in one["queues"]
    ]
    assert worker["name"] in momentum("workers", "list").stdout
    assert "takes no other job" in momentum("workers", "drain", worker["name"]).stdout
    resumed = json.loads(momentum("workers", "resume", worker["name"], "--json").stdout)
    assert (resumed["draining"], resumed["state"]) == (False, "alive")
    assert momentum("workers", "drain", "nobody").returncode == ExitCode.NOT_FOUND
    assert "is paused" in momentum("queues", "pause", "momentum-convert").stdout
    assert "paused since" in momentum("queues", "list").stdout
    assert momentum("queues", "resume", "momentum-convert").returncode == ExitCode.OK
    deeds = momentum("audit", "--operation", "pause_queue").stdout.splitlines()
    assert deeds[1].split()[-2:] == ["200", deeds[1].split()[-1]]
    assert "/queues/momentum-convert" in deeds[1]
    lines = momentum("logs", done_job).stdout.splitlines()
    assert any("attempt 1" in line for line in lines)
    assert json.loads(momentum("logs", "--json", done_job).stdout.splitlines()[0])["number"] == 1
    assert momentum("logs", done_job, "--level", "loud").returncode == ExitCode.USAGE
