"""What `momentum report` and `momentum predict` do, in a process that may import torch.

python -m worker.memory_command ORDER, where ORDER is JSON that the command's light shell wrote.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from momentum_core.architectures import named_input_shape
from momentum_core.comparison import BUDGETS_GIB, MemoryPrediction, predict_memory
from momentum_core.comparison.methods import METHODS
from momentum_core.config import ConversionConfig, MeasurementConfig, Optimizer
from momentum_core.conversion import convert, plan_architecture
from momentum_core.errors import ConfigError, MomentumError
from worker.contract.artifact_names import PAGE_FILE, REPORT_FILE, TABLE_FILE
from worker.device import choose_device
from worker.local_model import LocalModel, find_model
from worker.measuring import measure_step
from worker.report import local_report, write_report
from worker.report_page.sentences import LABELS

_TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportOrder:
    """Measure a network here, and write its report."""

    model: str
    gamma: float
    batch_size: int
    image_size: int | None
    repeats: int
    optimizer: Optimizer
    rivals: bool
    device: str
    output: str
    as_json: bool = False
    """Print the report itself, in place of what it says in short."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PredictOrder:
    """Predict what GPUs take, and print it."""

    model: str
    gamma: float
    batch_size: int
    image_size: int | None
    optimizer: Optimizer
    dtype: str
    gpus_gib: Sequence[float]
    """Empty for the usual sizes."""
    as_json: bool


def main(order: str) -> int:
    """Carry out an order; return the exit code."""
    values = json.loads(order)
    try:
        if values.pop("command") == "report":
            report(ReportOrder(**values))
        else:
            predict(PredictOrder(**values))
    except MomentumError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


def report(order: ReportOrder) -> None:
    """Measure, predict, and write the report into the output folder.

    Raises:
        MomentumError: the network cannot be found, converted or measured.
    """
    start = time.monotonic()
    config = MeasurementConfig(
        batch_size=order.batch_size,
        image_size=order.image_size,
        repeats=order.repeats,
        optimizer=order.optimizer,
        rivals=order.rivals,
    )
    conversion = ConversionConfig(gamma=order.gamma)
    device = choose_device(order.device)
    found = find_model(order.model)
    plan = plan_architecture(found.architecture, num_classes=found.num_classes, config=conversion)
    original = found.model.to(device)
    memory = measure_step(
        original,
        convert(original, plan=plan),
        config,
        architecture=found.architecture,
        num_classes=found.num_classes,
        device=device,
        on_round=lambda done: (
            None if order.as_json else _say(f"  {done} of {order.repeats} rounds")
        ),
    )
    request = {"conversion": asdict(conversion), "measurement": asdict(config)}
    written = local_report(
        found.source, plan, memory, request=request, seconds=time.monotonic() - start
    )
    folder = Path(order.output)
    folder.mkdir(parents=True, exist_ok=True)
    write_report(folder / REPORT_FILE, written)
    if order.as_json:
        _say(json.dumps(written, indent=2))
        return
    for sentence in written["summary"]:
        _say(sentence)
    _say(f"page: {folder / PAGE_FILE}  figures: {folder / REPORT_FILE}, {TABLE_FILE}")


def predict(order: PredictOrder) -> None:
    """Predict, and print a table or JSON.

    Raises:
        MomentumError: the network cannot be found or predicted.
    """
    if order.dtype not in _TYPES:
        raise ConfigError(f"dtype must be one of {', '.join(_TYPES)}, got {order.dtype!r}")
    found = find_model(order.model, has_memory=False)
    prediction = _prediction(found, order)
    if order.as_json:
        _say(json.dumps(prediction.to_json(), indent=2))
        return
    _say(f"{found.architecture}, {order.dtype}, {order.optimizer}: largest batch, predicted")
    names = [name for name in METHODS if name in prediction.methods]
    rows = [["GPU memory", *(LABELS[name] for name in names)]]
    for at, gib in enumerate(prediction.budgets_gib):
        batches = (prediction.methods[name].largest_batches[at] for name in names)
        rows.append([f"{gib:g} GiB", *(f"{size:,}" for size in batches)])
    rows.append([])
    rows.append([f"batch {order.batch_size}", *(LABELS[name] for name in names)])
    for term, basis in (
        ("tensors", "predicted"),
        ("allocator", "simulated"),
        ("workspaces", "assumed"),
        ("context", "assumed"),
        ("total", ""),
    ):
        sizes = (_term(prediction, name, term) for name in names)
        rows.append([f"{term} ({basis})" if basis else term, *sizes])
    _print_table(rows)


def _prediction(found: LocalModel, order: PredictOrder) -> MemoryPrediction:
    channels, side, _ = named_input_shape(found.architecture)
    side = order.image_size or side
    plan = plan_architecture(
        found.architecture,
        num_classes=found.num_classes,
        config=ConversionConfig(gamma=order.gamma),
    )
    return predict_memory(
        found.model,
        convert(found.model, plan=plan),
        torch.empty(2, channels, side, side, device="meta"),
        batch_size=order.batch_size,
        optimizer=order.optimizer,
        dtype=_TYPES[order.dtype],
        budgets_gib=tuple(order.gpus_gib) or BUDGETS_GIB,
        depth_factors=(),
    )


def _term(prediction: MemoryPrediction, name: str, term: str) -> str:
    [point] = [
        point
        for point in prediction.methods[name].points
        if point.batch_size == prediction.batch_size
    ]
    return f"{getattr(point.terms, term) / 2**20:,.0f} MiB"


def _print_table(rows: Sequence[Sequence[str]]) -> None:
    widths: list[int] = []
    for row in rows:
        for at, cell in enumerate(row):
            widths[at : at + 1] = [max([len(cell), *widths[at : at + 1]])]
    for row in rows:
        cells = (
            cell.ljust(width) if at == 0 else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=False))
        )
        _say("  ".join(cells))


def _say(line: Any) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
