"""What the documents state as measured is what the records of the benchmarks say."""

from __future__ import annotations

import json
import re

import pytest

from tests.benchmarks import documents
from tests.benchmarks.findings import Claim, load
from tests.benchmarks.parts import PARTS
from tests.benchmarks.record import RECORDS, read
from tests.conftest import ROOT

DOCUMENTS = [ROOT / "README.md", ROOT / "ARCHITECTURE.md", *sorted((ROOT / "docs").glob("*.md"))]
RECORDED = sorted(RECORDS.glob("*.json"))

_NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e-?\d+)?")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_tables_are_those_of_the_records(document):
    assert document.read_text() == documents.filled(document)


def test_figures_are_drawn_from_the_records():
    drawn = dict(documents.figures())
    assert set(drawn) == set(documents.FIGURES.glob("*.svg"))
    for path, text in drawn.items():
        kept = path.read_text()
        assert _NUMBER.sub("#", kept) == _NUMBER.sub("#", text), path
        # Another processor's last digit is not another figure.
        found, wanted = ([float(one) for one in _NUMBER.findall(t)] for t in (kept, text))
        assert found == pytest.approx(wanted, abs=0.02), path


def test_every_figure_is_shown_somewhere():
    shown = "".join(document.read_text() for document in DOCUMENTS)
    for path, _ in documents.figures():
        assert path.name in shown, path


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)
def test_a_record_says_where_it_comes_from_and_keeps_its_claims(path):
    kept = read(path)
    assert kept["part"] == path.stem in PARTS
    assert list(PARTS[path.stem].seeds) == kept["seeds"]
    assert kept["machine"]["processor"]
    assert kept["versions"]["torch"]
    assert kept["measured"]
    assert json.loads(path.read_text()) == kept
    for finding in load(kept):
        if isinstance(finding, Claim):
            assert finding.holds or finding.what in documents.KNOWN_MISSES, finding


@pytest.mark.parametrize(
    ("named", "reason"),
    [("exactness/nothing", "nothing named 'nothing'"), ("nothing/table", "was not recorded")],
)
def test_a_document_that_names_no_record_is_found(tmp_path, named, reason):
    wrong = tmp_path / "wrong.md"
    wrong.write_text(f"<!-- measured: {named} -->\n<!-- end of measured -->\n")
    with pytest.raises(LookupError, match=reason):
        documents.filled(wrong)


def test_a_block_without_an_end_is_found(tmp_path):
    """It would swallow what follows, up to the end of the next block."""
    source = next(one for one in DOCUMENTS if documents.named_in(one))
    wrong = tmp_path / source.name
    wrong.write_text("<!-- measured: exactness/table -->\n" + source.read_text())
    with pytest.raises(LookupError, match="has no end"):
        documents.filled(wrong)


def test_a_changed_figure_is_found(tmp_path):
    source = next(one for one in DOCUMENTS if documents.named_in(one))
    text = source.read_text()
    at = text.index("| ", text.index("<!-- measured:"))
    changed = tmp_path / "docs" / source.name
    changed.parent.mkdir()
    changed.write_text(text[:at] + "| 12345 " + text[at:])
    assert "12345" in changed.read_text()
    assert "12345" not in documents.filled(changed)
