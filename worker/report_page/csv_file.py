"""The report's figures as a table for spreadsheets: one figure in a row, with what it rests on."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from typing import Any

from worker.report_page.numbers import Numbers
from worker.report_page.plots import CATEGORIES, measured_methods

HEADINGS = ("section", "method", "quantity", "at", "value", "unit", "basis")
_Row = tuple[str, str, str, str, Any, str, str]
_BASIS = {
    "tensors": "predicted",
    "allocator": "simulated",
    "workspaces": "assumed",
    "context": "assumed",
    "total": "predicted",
}
_BYTES = (
    *("parameter_bytes", "gradient_bytes", "buffer_bytes", "input_bytes", "optimizer_bytes"),
    *("activation_bytes", "peak_bytes", "total_bytes", "resident_growth_bytes"),
)


def csv_text(report: Mapping[str, Any]) -> str:
    """Return the figures as CSV (RFC 4180) with a heading; what was not measured has no row."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(HEADINGS)
    for row in _rows(report):
        if row[4] is not None:
            writer.writerow(row)
    return text.getvalue()


def _rows(report: Mapping[str, Any]) -> Iterator[_Row]:
    yield from _measured(report)
    yield from _predicted(report["prediction"])
    for model in ("original", "converted", "refined"):
        if model not in (report["accuracy"] or {}):
            continue
        for name in ("top1_percent", "agreement_percent"):
            value = report["accuracy"][model][name]
            yield "accuracy", model, name.removesuffix("_percent"), "", value, "percent", "measured"
    for row in report["blocks"]:
        for method, value in row["held_bytes"].items():
            yield "blocks", method, "held", row["name"], value, "bytes", "measured"


def _measured(report: Mapping[str, Any]) -> Iterator[_Row]:
    numbers, section = Numbers(report), "memory"
    for name, path in measured_methods(report).items():
        figures = numbers.at(path)
        for quantity in _BYTES:
            short = quantity.removesuffix("_bytes")
            yield section, name, short, "", figures[quantity], "bytes", "measured"
        for category in CATEGORIES:
            value = figures["peak_by_category"].get(category, 0)
            yield section, name, "peak", category, value, "bytes", "measured"
        for phase in figures["phases"]:
            label = phase["name"]
            yield section, name, "peak", label, phase["peak_bytes"], "bytes", "measured"
            for which, value in figures["phase_seconds"][label].items():
                yield section, name, f"time {which}", label, value, "seconds", "measured"
        for which, value in figures["step_seconds"].items():
            yield section, name, f"time {which}", "step", value, "seconds", "measured"
        value = figures["predicted_peak_bytes"]
        yield section, name, "peak", "", value, "bytes", "predicted"


def _predicted(prediction: Mapping[str, Any]) -> Iterator[_Row]:
    section = "prediction"
    for name, method in prediction.get("methods", {}).items():
        for point in method["points"]:
            at = f"batch {point['batch_size']}"
            for term, value in point["terms"].items():
                yield section, name, term, at, value, "bytes", _BASIS[term]
    for budget in prediction.get("budgets", ()):
        for name, value in budget["largest_batch"].items():
            at = f"{budget['gib']:g} GiB"
            yield section, name, "largest batch", at, value, "examples", "predicted"
    depth = prediction.get("depth")
    for point in depth["points"] if depth else ():
        for name, value in point["peak_bytes"].items():
            at = f"{point['num_blocks']} blocks"
            yield section, name, "peak", at, value, "bytes", "predicted"
