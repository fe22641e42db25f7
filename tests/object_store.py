"""An S3 server of the tests' own (SeaweedFS), which they may end and start again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from tests.free_port import free_port

WEED = Path(os.environ.get("WEED_TMP") or Path(sys.executable).with_name("weed"))
KEY, SECRET = "momentum", "of-the-tests"
BUCKET = "zoo"
START_SECONDS = 60.0

_PARTS = ("master", "volume", "filer", "s3")


class ObjectStore:
    """An S3 server on a folder, with a bucket."""

    def __init__(self, folder: Path) -> None:
        """Prepare it; nothing runs yet."""
        self._folder = folder
        (folder / "files").mkdir(parents=True)
        credentials = [{"accessKey": KEY, "secretKey": SECRET}]
        actions = ["Admin", "Read", "Write", "List", "Tagging"]
        known = {"name": KEY, "credentials": credentials, "actions": actions}
        (folder / "s3.json").write_text(json.dumps({"identities": [known]}))
        found: set[int] = set()
        while len(found) < 2 * len(_PARTS):
            found.add(free_port())
        ports = sorted(found)
        self._ports = dict(zip(_PARTS, ports, strict=False))
        self._grpc_ports = dict(zip(_PARTS, ports[len(_PARTS) :], strict=True))
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def options(self) -> dict[str, Any]:
        """What its clients need to know."""
        endpoint = f"http://127.0.0.1:{self._ports['s3']}"
        return {"endpoint_url": endpoint, "key": KEY, "secret": SECRET}

    def environment(self, prefix: str) -> dict[str, str]:
        """Return the settings of a service that keeps its files here."""
        return {
            "MOMENTUM_STORE_URL": f"s3://{BUCKET}/{prefix}",
            "MOMENTUM_STORE_OPTIONS": json.dumps(self.options),
        }

    def start(self) -> None:
        """Start it with what it had; return when it answers."""
        words = [f"-{part}.port={port}" for part, port in self._ports.items()]
        words += [f"-{part}.port.grpc={port}" for part, port in self._grpc_ports.items()]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *(WEED, "server", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-filer", "-s3"),
                    # On fixed ports unless told not to: a second store on the machine would end.
                    *("-s3.port.iceberg=0", "-s3.port.lance=0", "-master.telemetry=false"),
                    *(f"-dir={self._folder / 'files'}", f"-s3.config={self._folder / 's3.json'}"),
                    # Of the disk no more than it needs.
                    "-s3.autoCreateBucket=false",
                    *("-master.volumeSizeLimitMB=128", "-volume.max=40", *words),
                ],
                cwd=self._folder,
                env=os.environ | {"HOME": str(self._folder)},
                stdout=log,
                stderr=log,
            )
        until = time.monotonic() + START_SECONDS
        while not self._make_bucket():
            assert time.monotonic() < until, (self._folder / "log").read_text()[-4000:]
            time.sleep(0.2)

    def stop(self) -> None:
        """End it at once."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _make_bucket(self) -> bool:
        import s3fs

        try:
            with urllib.request.urlopen(self.options["endpoint_url"], timeout=5):
                pass
        except urllib.error.HTTPError:
            pass  # it wants a signature
        except OSError:
            return False
        files = s3fs.S3FileSystem(**self.options, skip_instance_cache=True)
        try:
            if not files.exists(BUCKET):
                files.mkdir(BUCKET)
            # Volumes are made with the first file, and it may not have room yet.
            files.pipe(f"{BUCKET}/probe", b"probe")
            return bool(files.cat(f"{BUCKET}/probe") == b"probe")
        except OSError:
            return False
