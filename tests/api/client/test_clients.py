"""The two clients are one table."""

from __future__ import annotations

import inspect

import pytest

from api.client import AsyncClient, AsyncJob, Client, Job
from tests.architecture.test_imports import modules_after


def methods(kind: type) -> dict[str, object]:
    return {
        name: value
        for name, value in vars(kind).items()
        if not name.startswith("_") and inspect.isfunction(value)
    }


@pytest.mark.parametrize(("one", "other"), [(Client, AsyncClient), (Job, AsyncJob)])
def test_both_clients_have_the_same_methods_with_the_same_arguments(one, other):
    mine, others = methods(one), methods(other)
    assert mine.keys() == others.keys()
    assert len(mine) > 8
    for name in mine:
        assert inspect.signature(mine[name]) == inspect.signature(others[name]), name
        assert mine[name].__doc__ == others[name].__doc__
        assert mine[name].__doc__, name
        assert "policy" not in inspect.signature(mine[name]).parameters


def test_every_argument_is_documented():
    for kind in (Client, Job):
        for name, method in methods(kind).items():
            for argument in list(inspect.signature(method).parameters)[1:]:
                if argument not in ("job_id", "upload_id", "key_id", "webhook_id", "delivery_id"):
                    assert f"{argument}: " in method.__doc__, (name, argument)


def test_the_client_needs_nothing_of_the_service():
    held = modules_after("import api.client")
    assert not held & {"torch", "fastapi", "sqlalchemy", "numpy", "pydantic", "typer", "redis"}
    assert {name for name in held if name.startswith("worker")} == set()
