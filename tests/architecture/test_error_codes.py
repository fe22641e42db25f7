"""One table knows every error code: none of the code is missing, and none is there in vain."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path

import pytest

from api.error_codes import ERROR_CODES, markdown_table

ROOT = Path(__file__).parents[2]
BUILT = {f"job_{state}" for state in ("failed", "cancelled")} | {
    status.name.lower() for status in (HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED)
}
"""Codes that are put together, in api/downloads.py and api/problems.py."""


def trees() -> list[ast.Module]:
    paths = [
        path for name in ("api", "worker", "momentum_core") for path in (ROOT / name).rglob("*.py")
    ]
    return [ast.parse(path.read_text()) for path in paths if path.name != "error_codes.py"]


def constants(modules: list[ast.Module]) -> dict[str, str]:
    """String constants of all modules, by name."""
    return {
        target.id: node.value.value
        for module in modules
        for node in module.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
        for target in node.targets
        if isinstance(target, ast.Name) and isinstance(node.value.value, str)
    }


def expressions(module: ast.Module) -> Iterator[ast.expr]:
    """Yield everything that is given as a code."""
    for node in ast.walk(module):
        if isinstance(node, ast.ClassDef):
            for one in node.body:
                if isinstance(one, ast.Assign) and ast.unparse(one.targets[0]) == "code":
                    yield one.value
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func).rpartition(".")[2]
        if name == "Problem":
            yield node.args[1]
        if name in ("refuse", "_answer") and len(node.args) > 1:
            yield node.args[0 if name == "refuse" else 1]
        yield from (one.value for one in node.keywords if one.arg == "code")


def used_codes() -> set[str]:
    modules = trees()
    known, found = constants(modules), set(BUILT)
    for module in modules:
        for expression in expressions(module):
            for one in ast.walk(expression):
                if isinstance(one, ast.Constant) and isinstance(one.value, str):
                    found.add(one.value)
                if isinstance(one, ast.Name) and one.id in known:
                    found.add(known[one.id])
    return {code for code in found if code.replace("_", "").isalnum()} - {"job_", "code"}


def test_the_table_has_every_code_and_no_other():
    assert set(ERROR_CODES) == used_codes()


@pytest.mark.parametrize("code", ERROR_CODES)
def test_a_code_has_a_sentence_and_a_remedy(code):
    found = ERROR_CODES[code]
    assert len(found.meaning) >= 15
    assert len(found.remedy) >= 10
    assert all(400 <= status < 600 for status in found.statuses)


def test_the_documents_table_is_the_code():
    assert markdown_table() in (ROOT / "docs/errors.md").read_text()
