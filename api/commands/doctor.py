"""`momentum doctor`: looks for what is wrong, and says for each thing what to do."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import typer

from api.commands.access import LOCAL_HOSTS, local_key
from api.commands.exit_codes import ExitCode
from api.commands.options import DEFAULT_URL, DataDir, Json, Key, Url
from api.commands.output import is_terminal, print_json, say

if TYPE_CHECKING:
    from pathlib import Path

    from api.diagnosis.findings import Finding

_MARKS = {"ok": "✓", "warning": "!", "fault": "✗", "skipped": "-"}
_STYLES = {"ok": "green", "warning": "yellow", "fault": "red", "skipped": "dim"}


def doctor(
    data_dir: DataDir = None, url: Url = DEFAULT_URL, key: Key = None, as_json: Json = False
) -> None:
    """Look for what is wrong with the service, and say what to do; changes nothing.

    Of a service on another machine, only what can be seen from here.
    """
    findings: list[Finding] = []

    def add(*found: Finding) -> None:
        findings.extend(found)
        if not as_json:
            for one in found:
                _print(one)

    if urlsplit(url).hostname in LOCAL_HOSTS:
        _look_at_this_machine(add, data_dir)
    from api.diagnosis.connection import check_connection

    add(*check_connection(url, key or local_key(url)))
    num_faults = sum(one.verdict == "fault" for one in findings)
    if as_json:
        print_json({"faults": num_faults, "findings": [one.to_json() for one in findings]})
    else:
        say()
        say("nothing is wrong" if not num_faults else f"{num_faults} to be mended")
    raise typer.Exit(ExitCode.FAILED if num_faults else ExitCode.OK)


def _look_at_this_machine(add: Callable[..., None], data_dir: Path | None) -> None:
    from api.diagnosis import machine
    from api.diagnosis.configuration import check_settings
    from api.diagnosis.worker_side import check_worker_side

    settings, found = check_settings(os.environ, data_dir)
    add(*found)
    add(machine.check_data_folder(settings))
    add(machine.check_disk(settings))
    engine, about_database = machine.check_database(settings)
    add(about_database)
    broker_url, about_broker = machine.check_broker(settings)
    add(about_broker)
    add(machine.check_relay(engine))
    add(machine.check_sandbox())
    queued = machine.num_queued(engine)
    add(*check_worker_side(settings, broker_url, num_queued=queued))


def _print(finding: Finding) -> None:
    mark = _MARKS[finding.verdict]
    name = f"{finding.check:<18}"
    if not is_terminal():
        say(f"{finding.verdict:<8} {name} {finding.detail}")
        if finding.remedy:
            say(f"{'':<8} {'':<18} -> {finding.remedy}")
        return
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)
    style = _STYLES[finding.verdict]
    console.print(Text.assemble((f" {mark} ", style), (name, "bold"), finding.detail))
    if finding.remedy:
        console.print(Text(f"{'':<21}-> {finding.remedy}", style="yellow"))
