"""The HTTP server's process: `python -m api.server --port 8000`."""

from __future__ import annotations

import gc
from typing import Annotated

import typer
import uvicorn

from api.app import create_app
from api.http_protocol import bounded_protocol
from worker.contract.process_logs import configure_logging
from worker.contract.settings import Settings
from worker.contract.tracing import configure_tracing

STOP_SECONDS = 3
"""That running requests have when the process is asked to stop."""


def serve(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.", min=1, max=65535)] = 8000,
    root_path: Annotated[
        str, typer.Option(help="Path under which a proxy shows the service, such as /zoo.")
    ] = "",
    forwarded_allow_ips: Annotated[
        str, typer.Option(help="Addresses of proxies whose forwarded headers are believed.")
    ] = "127.0.0.1",
    access_log: Annotated[
        bool, typer.Option(help="Print every request; it costs as much as answering a poll.")
    ] = False,
) -> None:
    """Run the HTTP API with the settings of the environment."""
    settings = Settings()
    configure_logging(settings.log_format)
    configure_tracing("api")
    application = create_app(settings)
    # What is there now stays: the collector need not look through it again and again.
    gc.collect()
    gc.freeze()
    uvicorn.run(
        application,
        host=host,
        port=port,
        root_path=root_path,
        forwarded_allow_ips=forwarded_allow_ips,
        http=bounded_protocol(  # type: ignore[arg-type]
            settings.receive_seconds, settings.min_bytes_per_second
        ),
        access_log=access_log,
        log_config=None,  # as all processes of the service
        ws="none",
        server_header=False,
        timeout_graceful_shutdown=STOP_SECONDS,
    )


if __name__ == "__main__":
    typer.run(serve)
