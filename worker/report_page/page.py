"""The report as one HTML page: no script, no file beside it, no request to anywhere."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

from worker.report_page import plots
from worker.report_page.numbers import Numbers, key
from worker.report_page.sentences import LABELS, is_gpu, sentences

CATEGORY_LABELS = {
    "parameters": "parameters",
    "gradients": "gradients",
    "optimizer_state": "optimizer state",
    "buffers": "buffers",
    "input": "input",
    "activations": "saved activations",
    "reversible_state": "reversible state",
    "temporaries": "temporaries",
}
PHASE_LABELS = {
    "forward": "forward pass",
    "backward": "backward pass",
    "optimizer_step": "optimizer step",
}
STRATEGY_LABELS = {
    "reverse": "reversed",
    "recompute": "recomputed from block inputs",
    "recompute_whole": "run again from its input, then reversed",
    "store": "activations stored",
}


def html_text(report: Mapping[str, Any]) -> str:
    """Return the page of a report."""
    numbers = Numbers(report)
    return _template().render(
        report=report,
        n=numbers.html,
        key=key,
        is_gpu=is_gpu(report),
        sentences=[numbers.fill_html(sentence) for sentence in sentences(report)],
        drawn=_drawn(report),
        measured=plots.measured_methods(report),
        predicted=[name for name in LABELS if name in report["prediction"].get("methods", {})],
        categories=_categories(report),
        labels=LABELS,
        category_labels=CATEGORY_LABELS,
        phase_labels=PHASE_LABELS,
        strategy_labels=STRATEGY_LABELS,
    )


def _drawn(report: Mapping[str, Any]) -> dict[str, Markup]:
    """Return the plots that there are figures for."""
    drawn = {
        "live": plots.live_bytes(report),
        "categories": plots.peak_by_category(report),
    }
    if "methods" in report["prediction"]:
        drawn["batch"] = plots.against_batch(report)
        if report["prediction"]["depth"]:
            drawn["depth"] = plots.against_depth(report)
    if len((report["refinement"] or {}).get("evaluations") or ()) > 1:
        drawn["accuracy"] = plots.accuracy_against_step(report)
    if report.get("gamma_search"):
        drawn["gamma"] = plots.gamma_trials(report)
    return drawn


def _categories(report: Mapping[str, Any]) -> list[str]:
    """Return the categories that some method has at its peak."""
    numbers = Numbers(report)
    paths = plots.measured_methods(report).values()
    return [
        category
        for category in plots.CATEGORIES
        if any(numbers.at(f"{path}/peak_by_category/{category}") for path in paths)
    ]


@cache
def _template() -> Template:
    environment = Environment(
        loader=ChoiceLoader(
            [PackageLoader("worker.report_page", ""), PackageLoader("worker.figures", "")]
        ),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.j2")
