"""`momentum download`, killed in the middle, goes on where it was."""

from __future__ import annotations

import os
import subprocess
import time

from tests.api.client.cutting_proxy import cutting_proxy
from tests.api.commands.conftest import environment, run_momentum
from tests.end_to_end.conftest import MOMENTUM
from worker.contract.job import Artifact

NUM_BYTES = 8_000_000


def test_a_download_that_is_killed_goes_on(client, service, claims, tmp_path):
    content = os.urandom(NUM_BYTES)
    job_id = client.post("/convert", json={"source": {"zoo": "resnet50"}}).json()["id"]
    with service.files.temporary_folder() as folder:
        (folder / "w").write_bytes(content)
        stored = service.files.put(folder / "w")
    artifact = Artifact(
        name="model.safetensors",
        sha256=stored.sha256,
        num_bytes=NUM_BYTES,
        media_type="application/vnd.safetensors",
    )
    claims.succeed(claims.claim(job_id, worker="w"), result={"a": 1}, files=[artifact])
    command = ("download", job_id, "--file", "model.safetensors", "--output", "out")
    out = tmp_path / "out"
    with cutting_proxy(client.base_url.port, bytes_per_second=3e6) as proxy:
        killed = subprocess.Popen([MOMENTUM, *command], cwd=tmp_path, env=environment(proxy.url))
        deadline = time.monotonic() + 60
        while not (parts := list(out.glob(".*.part"))) or parts[0].stat().st_size < NUM_BYTES / 2:
            assert time.monotonic() < deadline
            assert killed.poll() is None
            time.sleep(0.02)
        killed.kill()
        killed.wait()
        [part] = out.iterdir()
        there = part.stat().st_size
        proxy.bytes_per_second, proxy.num_bytes = None, 0
        done = run_momentum(proxy.url, tmp_path, *command)
        assert done.returncode == 0, done.stderr
        assert proxy.num_bytes < NUM_BYTES - there + 500_000
    assert (out / "model.safetensors").read_bytes() == content
    assert [one.name for one in out.iterdir()] == ["model.safetensors"]
