"""docs/security.md says what the code does."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from momentum_core.checkpoint import DEFAULT_LIMITS
from tests.conftest import ROOT
from tests.corpus.cases import CASES
from worker.contract import seccomp
from worker.contract.sandbox import LAYERS

TEXT = (ROOT / "docs" / "security.md").read_text()
READERS = ("momentum_core/checkpoint", "momentum_core/image_archive")


def limits_table() -> str:
    """Return the table of limits, from the fields and the sentences below them."""
    source = (ROOT / "momentum_core" / "checkpoint" / "limits.py").read_text()
    [limits] = [node for node in ast.parse(source).body if isinstance(node, ast.ClassDef)]
    rows = []
    for field, sentence in zip(limits.body, limits.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign):
            name = field.target.id
            value = getattr(DEFAULT_LIMITS, name)
            rows.append(f"| `{name}` | {value:,} | {sentence.value.value} |")
    return "\n".join(rows)


def section(title: str) -> str:
    return TEXT.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def test_the_table_of_limits_is_complete_and_true():
    rows = [line for line in section("Limits").splitlines() if line.startswith("| `")]
    assert "\n".join(rows) == limits_table()


def raised_codes() -> set[str]:
    """Return every code that the readers and the intake refuse a file with."""
    paths = [path for folder in READERS for path in sorted((ROOT / folder).glob("*.py"))]
    paths.append(ROOT / "worker" / "contract" / "intake.py")
    return {code for path in paths for code in _codes_in(path)}


def _codes_in(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Call):
            continue
        values = [word.value for word in node.keywords if word.arg in ("code", "too_many")]
        if getattr(node.func, "id", "") == "refuse":
            values.append(node.args[0])
        yield from (each.value for each in values if isinstance(each, ast.Constant))


def test_the_table_of_codes_is_complete():
    documented = set(re.findall(r"^\| `(\w+)` \|", section("Codes"), re.M))
    of_the_service = {"malformed_digest", "inspection_unavailable", "architecture_mismatch"}
    assert documented == raised_codes() | of_the_service
    assert {case.code for case in CASES} <= documented


def test_the_layers_are_all_there():
    rows = re.findall(r"^\| `(\w+)` \|", section("The walls around the inspector"), re.M)
    assert tuple(rows) == LAYERS
    assert f"call but {len(seccomp._ALLOWED) + len(seccomp._ALLOWED_WITHOUT_EXEC)}:" in TEXT


def test_the_tests_that_are_named_exist():
    for name in re.findall(r"`(tests/[\w/.]+)`", TEXT):
        assert (ROOT / name).exists(), name
    for module in re.findall(r"python -m (tests[\w.]+)", TEXT):
        assert (ROOT / (module.replace(".", "/") + ".py")).exists(), module
