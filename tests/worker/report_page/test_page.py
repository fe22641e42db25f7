"""The page of a whole job's report against the report, figure by figure."""

from __future__ import annotations

import copy
import csv
import io
import json
import re

import jsonschema
import pytest

from tests.conftest import ROOT
from tests.worker.report_page.page_reader import PageReader, at, says
from worker.report_page import csv_text, html_text, summary

# The jobs that the reports are of: half a minute each on a quiet machine.
pytestmark = pytest.mark.timeout(1200)

_OWN_WORDS = {"0.10", "sqrt(n)", "top-1", "4"}
"""Words of the page's own with a digit in them."""


@pytest.fixture(scope="module")
def report(report_folder):
    return json.loads((report_folder / "report.json").read_text())


@pytest.fixture(scope="module")
def page(report_folder):
    return PageReader.of((report_folder / "report.html").read_text())


@pytest.fixture(params=["report_folder", "resnet50_folder"], ids=["a whole job", "ResNet-50"])
def read(request):
    """A report and its page."""
    folder = request.getfixturevalue(request.param)
    report = json.loads((folder / "report.json").read_text())
    return report, PageReader.of((folder / "report.html").read_text())


def test_every_figure_of_the_page_is_the_reports(read):
    report, page = read
    assert len(page.figures) > 150
    for figure in page.figures:
        value = at(report, figure.path)
        assert figure.value == str(value), figure
        assert says(figure.text, value, figure.form), figure


def test_no_figure_stands_on_the_page_that_is_not_marked(read):
    report, page = read
    strings: list[str] = []

    def collect(value):
        if isinstance(value, dict):
            for name, inner in value.items():
                strings.append(name)
                collect(inner)
        elif isinstance(value, list):
            for inner in value:
                collect(inner)
        elif isinstance(value, str):
            strings.append(value)

    collect(report)
    for text in page.words:
        for word in re.findall(r"\S*\d\S*", text):
            bare = word.strip(".,;:()")
            known = any(bare in string for string in strings) or bare in _OWN_WORDS
            assert known, f"{word!r} in {text!r}"


def test_the_summary_says_the_main_figures_first(report, page):
    shown = {figure.path for figure in page.figures[:12]}
    assert {
        "/memory/ratios/activation_bytes",
        "/memory/ratios/peak_bytes",
        "/memory/ratios/seconds",
    } <= shown
    text = " ".join(report["summary"])
    assert report["summary"] == summary(report)
    assert f"{report['memory']['ratios']['activation_bytes']:.2f}x the activation memory" in text
    assert "this is not GPU memory, which was not measured" in text
    assert "(predicted, not measured)" in text
    [budget] = [one for one in report["prediction"]["budgets"] if one["gib"] == 24]
    before, after = budget["largest_batch"]["original"], budget["largest_batch"]["momentum"]
    assert f"from {before:,} to {after:,}" in text
    top1 = report["accuracy"]
    assert f"from {top1['original']['top1_percent']:.2f} % to" in text


def test_the_report_follows_its_published_schema(read):
    report, _ = read
    schema = json.loads((ROOT / "docs/report.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    assert [error.message for error in validator.iter_errors(report)] == []
    for path in (("memory", "original", "peak_bytes"), ("prediction", "budgets"), ("summary",)):
        broken = copy.deepcopy(report)
        inner = broken
        for name in path[:-1]:
            inner = inner[name]
        inner[path[-1]] = "many"
        assert not validator.is_valid(broken), path
    assert not validator.is_valid(report | {"more": 1})


def test_the_page_asks_nobody_for_anything(page, report_folder):
    text = (report_folder / "report.html").read_text()
    assert not {"script", "link", "img", "iframe", "object", "form"} & {
        tag for tag, _ in page.elements
    }
    for tag, given in page.elements:
        assert not {"src", "href", "style", "action"} & set(given), tag
    assert "url(" not in text
    assert "@import" not in text
    policies = [given for tag, given in page.elements if given.get("http-equiv")]
    assert policies[0]["content"] == "default-src 'none'; style-src 'unsafe-inline'"


def test_every_plot_has_a_title_and_a_table_after_it(page):
    tags = [tag for tag, _ in page.elements]
    drawings = [at for at, (tag, given) in enumerate(page.elements) if given.get("role") == "img"]
    assert len(drawings) == 5
    for start, end in zip(drawings, [*drawings[1:], len(tags)], strict=True):
        assert tags[start + 1] == "title"
        assert "table" in tags[start:end]


def test_one_evaluation_is_no_line(report):
    assert 'aria-labelledby="accuracy-title"' in html_text(report)
    evaluations = report["refinement"]["evaluations"][:1]
    short = report | {"refinement": report["refinement"] | {"evaluations": evaluations}}
    assert 'aria-labelledby="accuracy-title"' not in html_text(short)


def test_lines_are_drawn_where_the_figures_are(report, page):
    """The peak line of the plot against depth, by the plot's own ticks."""
    text = html_text(report)
    svg = text[text.index('aria-labelledby="depth-title"') :].partition("</svg>")[0]
    ticks = re.findall(
        r'<text class="tick" text-anchor="end" x="[\d.]+" y="([\d.]+)">([^<]+)<', svg
    )
    (bottom, low), (top, high) = [(float(y) - 5, label) for y, label in (ticks[0], ticks[-1])]
    unit = {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30}[high.split()[1]]
    lowest, highest = (float(label.split()[0]) * unit for label in (low, high))
    for name in ("original", "momentum", "checkpoint_sqrt"):
        [points] = re.findall(rf'class="line m-{name}" points="([^"]+)"', svg)
        expected = [point["peak_bytes"][name] for point in report["prediction"]["depth"]["points"]]
        drawn = [
            lowest + (bottom - float(one.split(",")[1])) / (bottom - top) * (highest - lowest)
            for one in points.split()
        ]
        assert drawn == pytest.approx(expected, abs=0.002 * highest)


def test_bars_are_as_long_as_their_figures(report):
    text = html_text(report)
    svg = text[text.index('aria-labelledby="categories-title"') :].partition("</svg>")[0]
    widths = {
        kind: [
            float(w) for w in re.findall(rf'c-{kind}" x="[\d.]+" y="[\d.]+" width="([\d.]+)"', svg)
        ]
        for kind in ("activations", "parameters", "temporaries")
    }
    order = ["original", *report["memory"]["rivals"]]
    order.insert(3, "momentum")
    figures = report["memory"]["rivals"] | {
        name: report["memory"][name] for name in ("original", "momentum")
    }
    by_hand = [
        (widths[kind][at], figures[name]["peak_by_category"].get(kind, 0))
        for at, name in enumerate(order)
        for kind in widths
    ]
    scale = widths["activations"][0] / figures["original"]["peak_by_category"]["activations"]
    assert [width for width, _ in by_hand] == pytest.approx(
        [value * scale for _, value in by_hand], abs=0.1
    )


def test_what_was_not_measured_is_said_and_not_called_gpu_memory(report, page):
    assert report["memory"]["device"] == "cpu"
    assert all(figure.path.find("/cuda/") < 0 for figure in page.figures)
    text = " ".join("".join(page.words).split())
    assert "not GPU memory" in text
    assert "Nothing in this section was measured." in text
    for column in ("allocated", "reserved", "used on the device"):
        assert f"GPU: {column}" in text
    assert "not measured" in text


def test_a_job_without_data_and_prediction_says_so(report):
    bare = report | {
        "accuracy": None,
        "refinement": None,
        "prediction": {"basis": "not predicted", "reason": "it was not asked for"},
    }
    bare["memory"] = report["memory"] | {
        "rivals": {},
        "not_measured": {"momentumnet": "momentumnet 0.10 is needed, it is not installed"},
    }
    bare["summary"] = summary(bare)
    text = " ".join(html_text(bare).split())
    assert "Accuracy was not measured: there were no test images." in text
    assert "Not predicted: it was not asked for." in text
    assert "not measured: momentumnet 0.10 is needed" in text
    assert "The largest batches of GPUs were not predicted." in text
    schema = json.loads((ROOT / "docs/report.schema.json").read_text())
    jsonschema.Draft202012Validator(schema).validate(bare)


def test_a_search_for_gamma_is_drawn_with_its_table(report):
    trials = [
        {"gammas": ["1/2", "1/4"], "bits_per_element": 1.5, "agreement_percent": 99.5},
        {"gammas": ["9/10", "1/2"], "bits_per_element": 0.576, "agreement_percent": 95.0},
    ]
    page = PageReader.of(html_text(report | {"gamma_search": trials}))
    assert {figure.text for figure in page.figures} >= {"1/2", "9/10", "0.576", "99.50 %"}


def test_strangers_words_are_escaped(report):
    evil = "<script>alert(1)</script>&\"'"
    source = report["source"] | {"architecture": evil}
    blocks = [report["blocks"][0] | {"reason": evil, "modules": [evil]}, *report["blocks"][1:]]
    page = html_text(report | {"source": source, "blocks": blocks})
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page


def test_the_table_has_the_reports_figures_and_what_they_rest_on(report, report_folder):
    rows = list(csv.DictReader(io.StringIO((report_folder / "report.csv").read_bytes().decode())))
    assert rows == list(csv.DictReader(io.StringIO(csv_text(report))))
    assert len(rows) > 300

    def value(**wanted):
        [found] = [row for row in rows if all(row[name] == one for name, one in wanted.items())]
        return float(found["value"])

    memory = report["memory"]
    peak = {"section": "memory", "quantity": "peak", "at": "", "method": "checkpoint_sqrt"}
    figures = memory["rivals"]["checkpoint_sqrt"]
    assert value(**peak, basis="measured") == figures["peak_bytes"]
    assert value(**peak, basis="predicted") == figures["predicted_peak_bytes"]
    [point] = [
        one
        for one in report["prediction"]["methods"]["momentum"]["points"]
        if one["batch_size"] == 64
    ]
    at_64 = {"section": "prediction", "method": "momentum", "at": "batch 64"}
    assert value(**at_64, quantity="allocator", basis="simulated") == point["terms"]["allocator"]
    assert value(**at_64, quantity="context", basis="assumed") == point["terms"]["context"]
    assert {row["basis"] for row in rows} == {"measured", "predicted", "simulated", "assumed"}


def test_blocks_hold_what_the_step_held(report):
    held = report["memory"]["original"]["held_by_part"]
    runs = [row for row in report["blocks"] if row["converted"]]
    assert [len(row["blocks"]) for row in runs] == [6, 5]
    for row in runs:
        for block in row["blocks"]:
            assert block["held_bytes"] == sum(held[block["name"]].values())
        assert row["held_bytes"]["original"] == sum(block["held_bytes"] for block in row["blocks"])
        assert row["held_bytes"]["momentum"] < row["held_bytes"]["original"]
    others = [row for row in report["blocks"] if not row["converted"]]
    assert all(row["reason"].startswith("not converted: ") for row in others)
    assert "layer2.0" in {row["name"] for row in others}
