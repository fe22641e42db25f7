"""A run of a part as a file: findings, machine, versions, seeds."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from tests.benchmarks.findings import Finding, Part

RECORDS = Path(__file__).parents[2] / "docs" / "benchmarks"
"""The runs whose figures the documents state."""

_PACKAGES = (
    *("torch", "torchvision", "timm", "momentumnet", "revlib", "memcnn", "torchdiffeq"),
    *("numpy", "celery", "fastapi", "sqlalchemy"),
)
_MEMORY_DIGITS = 1


def write(folder: Path, name: str, part: Part, findings: Sequence[Finding], seconds: float) -> Path:
    """Write what a part found, and return the file."""
    kept: dict[str, Any] = {
        "part": name,
        "about": part.about,
        "measured": datetime.now(UTC).date().isoformat(),
        "seconds": round(seconds),
        "machine": machine(),
        "versions": versions(),
        "seeds": list(part.seeds),
        "findings": [{"kind": type(one).__name__.lower(), **asdict(one)} for one in findings],
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    path.write_text(json.dumps(_rounded(kept), indent=1) + "\n")
    return path


def read(path: Path) -> dict[str, Any]:
    """Return what a file keeps."""
    kept: dict[str, Any] = json.loads(path.read_text())
    return kept


def machine() -> dict[str, Any]:
    """Return what a figure depends on besides the program."""
    pages = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gib": round(pages / 2**30, _MEMORY_DIGITS),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "system": platform.system(),
        "python": platform.python_version(),
    }


def versions() -> dict[str, str]:
    """Return the versions of the packages that a figure may depend on, where they are there."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def _rounded(value: Any) -> Any:
    """Return it with five digits: more is noise, and every run would change every line."""
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {name: _rounded(one) for name, one in value.items()}
    return [_rounded(one) for one in value] if isinstance(value, list | tuple) else value
