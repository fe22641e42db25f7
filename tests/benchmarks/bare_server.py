"""What the service is compared with: Starlette alone, which answers from memory.

python -m tests.benchmarks.bare_server --port PORT --folder FOLDER --body FILE
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import tempfile
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route


def application(folder: Path, body: dict[str, object]) -> Starlette:
    """Answer a job that is always the same; write what is sent, hashed and synced."""

    async def job(_: Request) -> JSONResponse:
        return JSONResponse(body)

    async def sink(request: Request) -> JSONResponse:
        digest = hashlib.sha256()
        with tempfile.NamedTemporaryFile(dir=folder) as file:
            async for chunk in request.stream():
                digest.update(chunk)
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        return JSONResponse({"sha256": digest.hexdigest()})

    routes = [Route("/jobs/{job_id}", job), Route("/uploads", sink, methods=["POST"])]
    return Starlette(routes=routes)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--body", type=Path)
    given = parser.parse_args()
    app = application(given.folder, json.loads(given.body.read_text()))
    uvicorn.run(app, port=given.port, log_level="warning")
