"""The API process is small: what it imports never brings torch with it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TORCH_FREE = [
    "momentum_core",
    "momentum_core.config",
    "momentum_core.errors",
    "api",
    "api.app",
    "api.cli",
    "worker",
    "worker.celery_app",
    "worker.contract",
    "worker.relay",
    "worker.tasks",
]


HEAVY = {"torch", "torchvision", "safetensors"}


def modules_after(statement: str) -> set[str]:
    """Names of the modules that a fresh Python holds after `statement`."""
    program = f"{statement}\nimport sys\nprint('\\n'.join(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


def test_importing_light_modules_does_not_import_torch() -> None:
    """All in one fresh Python: what all of them do not import each of them does not."""
    assert not modules_after(f"import {', '.join(TORCH_FREE)}") & HEAVY


def test_every_public_name_of_the_library_says_where_it_lives() -> None:
    import momentum_core

    assert set(momentum_core.__all__) == set(momentum_core._HOME)
    assert momentum_core.__all__ == sorted(momentum_core.__all__)


def test_an_unknown_public_name_is_an_attribute_error() -> None:
    import momentum_core

    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = momentum_core.nonsense
