"""A job while it is waited for: bars at a terminal, else a line for each event, or JSON."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from api.commands.output import is_terminal, print_json_line, say, seconds_since
from api.words import duration, progress_words, waiting_words

if TYPE_CHECKING:
    from rich.console import Group

    from api.client import Event, JobRecord

Refresh = Callable[[], "JobRecord"]
OnEvent = Callable[["Event"], None]

_FRAMES_PER_SECOND = 8


@contextmanager
def showing(refresh: Refresh, *, as_json: bool, is_quiet: bool = False) -> Iterator[OnEvent]:
    """Yield what is to be told of each event.

    Args:
        refresh: asks how the job stands.
        as_json: print each event as a line of JSON.
        is_quiet: print nothing at all.
    """
    if is_quiet:
        yield lambda _: None
    elif as_json:
        yield lambda event: print_json_line(event.raw)
    elif not is_terminal():
        yield lambda event: say(event_line(event))
    else:
        with _live(refresh) as on_event:
            yield on_event


def event_line(event: Event) -> str:
    """Return an event as a line."""
    return f"{event.at.astimezone():%H:%M:%S}  {_event_words(event)}"


def _event_words(event: Event) -> str:
    figures = event.data
    match event.kind:
        case "stage":
            return f"{figures.get('stage')} ..."
        case "progress":
            return f"  {progress_words(figures) or '...'}"
        case "failed":
            return f"failed: {figures.get('message')} [{figures.get('code')}]"
        case "requeued":
            return f"queued again ({str(figures.get('reason', '')).replace('_', ' ')})"
        case kind:
            return kind.replace("_", " ")


@contextmanager
def _live(refresh: Refresh) -> Iterator[OnEvent]:
    from rich.console import Console
    from rich.live import Live

    board = _Board(refresh)
    with Live(
        get_renderable=board.render,
        console=Console(highlight=False),
        refresh_per_second=_FRAMES_PER_SECOND,
        redirect_stdout=False,
        redirect_stderr=False,
    ) as live:
        yield board.on_event
        board.end()
        live.refresh()


class _Board:
    """The stages with their times, the figures of the last event, and a bar for the whole job."""

    def __init__(self, refresh: Refresh) -> None:
        self._refresh = refresh
        self._job = refresh()
        self._stages: list[tuple[str, float, float | None]] = []
        """Name, start and end of each; seconds since 1970."""
        self._words = ""
        self._ends_at: float | None = None
        """When it should have ended, by this machine's clock."""
        self._skew_seconds: float | None = None
        """Of this machine's clock before the service's."""

    def on_event(self, event: Event) -> None:
        """Take an event into account."""
        at = event.at.timestamp()
        if event.kind in ("stage", "progress"):
            self._skew_seconds = time.time() - at
        if event.kind == "progress":
            self._words = progress_words(event.data)
        else:
            self._end_stage(at)
            self._words = "" if event.kind == "stage" else _event_words(event)
        if event.kind == "stage":
            self._stages.append((str(event.data.get("stage")), at, None))
        elif event.kind in ("started", "requeued"):
            self._stages.clear()
        self._job = self._refresh()
        self._ends_at = self._estimate(event)

    def end(self) -> None:
        """Show how it ended."""
        self._job = self._refresh()

    def render(self) -> Group:
        """Return the board as it is now."""
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        lines: list[Any] = []
        for name, start, end in self._stages:
            now = time.time() - (self._skew_seconds or 0.0) if end is None else end
            took = f"{max(0.0, now - start):6.1f} s"
            is_open = end is None
            mark, style = ("▸", "yellow") if is_open else ("✓", "green")
            line = Text.assemble((f" {mark} ", style), f"{name:<12}", (took, "dim"))
            if is_open and self._words:
                line.append(f"   {self._words}")
            lines.append(line)
        if self._words and (not self._stages or self._stages[-1][2] is not None):
            lines.append(Text(f"   {self._words}", style="bold"))
        job = self._job
        row = Table.grid(padding=(0, 2))
        style = "red" if job.state in ("failed", "cancelled") else "green"
        row.add_row(
            Text(f" {job.id[:8]}"),
            ProgressBar(total=1.0, completed=job.progress, width=40, complete_style=style),
            Text(f"{100 * job.progress:3.0f} %"),
            Text(self._times(), style="dim"),
        )
        return Group(*lines, row)

    def _times(self) -> str:
        job = self._job
        if job.started_at is None or job.state == "queued":
            if job.waiting_for is not None:
                return waiting_words(job.waiting_for)
            return "waiting for a worker" if job.state == "queued" else ""
        elapsed = duration(max(0.0, seconds_since(job.started_at, job.finished_at)))
        left = (self._ends_at or 0.0) - time.time()
        return elapsed if job.is_final or left < 1 else f"{elapsed}, about {duration(left)} left"

    def _estimate(self, event: Event) -> float | None:
        """Return when the job should have ended: as training says, or by what is done."""
        job = self._job
        if event.data.get("eta_seconds") is not None:
            return time.time() + float(event.data["eta_seconds"])
        if job.started_at is None or not 0.1 <= job.progress < 1:
            return None
        return time.time() + seconds_since(job.started_at) * (1 / job.progress - 1)

    def _end_stage(self, at: float) -> None:
        if self._stages and self._stages[-1][2] is None:
            name, start, _ = self._stages[-1]
            self._stages[-1] = (name, start, at)
