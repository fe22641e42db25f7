"""The command `momentum`: a light shell; each command imports what it needs when it is used."""

from __future__ import annotations

import typer

from api.commands import conversion, doctor, jobs, keys, memory, operations, service, webhooks, zoo

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)


@app.callback()
def main() -> None:
    """Convert pretrained residual networks to Momentum ResNets, and refine them."""


_JOBS, _SERVICE, _HERE, _RUN = "Jobs", "The service", "Without a service", "Run the service"

for _function, _panel in (
    (conversion.convert, _JOBS),
    (conversion.inspect, _JOBS),
    (jobs.jobs, _JOBS),
    (jobs.show, _JOBS),
    (jobs.watch, _JOBS),
    (jobs.logs, _JOBS),
    (jobs.download, _JOBS),
    (jobs.compare, _JOBS),
    (jobs.cancel, _JOBS),
    (jobs.retry, _JOBS),
    (jobs.delete, _JOBS),
    (zoo.zoo, _SERVICE),
    (zoo.datasets, _SERVICE),
    (zoo.limits, _SERVICE),
    (zoo.version, _SERVICE),
    (operations.audit, _SERVICE),
    (memory.report, _HERE),
    (memory.predict, _HERE),
    (service.serve, _RUN),
    (service.demo, _RUN),
    (doctor.doctor, _RUN),
    (service.migrate, _RUN),
):
    app.command(rich_help_panel=_panel)(_function)
app.add_typer(operations.workers, name="workers", rich_help_panel=_SERVICE)
app.add_typer(operations.queues, name="queues", rich_help_panel=_SERVICE)
app.add_typer(keys.app, name="keys", rich_help_panel=_SERVICE)
app.add_typer(webhooks.app, name="webhooks", rich_help_panel=_SERVICE)
