"""What the documents say is what the code does."""

from __future__ import annotations

import re
import shlex

import pytest

from tests.conftest import ROOT
from tests.end_to_end.test_by_hand import commands
from worker.contract.settings import Settings


def settings_table() -> str:
    """Return the table of docs/settings.md."""
    rows = ["| setting | default | |", "| --- | --- | --- |"]
    for name, field in Settings.model_fields.items():
        default = "" if field.default is None else f"`{field.default}`"
        rows.append(f"| `MOMENTUM_{name.upper()}` | {default} | {field.description} |")
    return "\n".join(rows)


def test_the_settings_table_is_complete_and_true():
    text = (ROOT / "docs" / "settings.md").read_text()
    table = text[text.index("| setting") :].partition("\n\n")[0].strip()
    assert table == settings_table()


def test_the_commands_for_each_process_are_those_that_are_tested():
    text = (ROOT / "docs" / "running.md").read_text()
    documented = [shlex.split(line)[1:] for line in re.findall(r"^    (python -m .*)$", text, re.M)]
    assert documented == [list(command) for command in commands(8000)]


DOCUMENTS = ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md"]
DOCUMENTS += [f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_link_leads_somewhere(document):
    text = (ROOT / document).read_text()
    for target in re.findall(r"\]\((?!https?://)([^)#]+)", text):
        assert ((ROOT / document).parent / target).exists(), target


def test_every_option_is_documented():
    from api.request_body import option_names

    text = (ROOT / "docs" / "api.md").read_text()
    for name in option_names():
        last = name.rpartition(".")[2]
        assert f"`{name}`" in text or f"`.{last}`" in text, name


def test_every_make_target_of_the_readme_exists():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    named = set(re.findall(r"(?:^    |`)make ([a-z]+)", (ROOT / "README.md").read_text(), re.M))
    assert {"demo", "test"} <= named <= targets
