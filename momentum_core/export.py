"""The evaluation path of a converted model for other runtimes: `torch.export` and ONNX."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from momentum_core.conversion import ExampleInput, plan_of
from momentum_core.errors import BundleError

TOLERANCE = 1e-4
"""Largest difference between the outputs of torch and of onnxruntime."""

_MOST_BYTES_IN_ONE_FILE = 1_900_000_000
"""Protocol buffers end at 2 GB; larger models keep their weights in a second file."""


def export_program(
    converted: nn.Module, example_input: ExampleInput, *, any_batch: bool = True
) -> torch.export.ExportedProgram:
    """Return a converted model's evaluation path as a graph without Python.

    In it the momentum rule runs in floats, as under `no_grad`: it is for inference. The model stays
    as it is.

    Args:
        converted: the model, as `convert` or `calibrate` made it, trained or not.
        example_input: what its forward takes; a batch of two or more, if `any_batch`.
        any_batch: leave the first size of every tensor open, where the model leaves it open.

    Raises:
        ConversionError: the model was not converted.
        BundleError: `export_failed`, when torch cannot follow the model.
    """
    plan_of(converted)
    args, kwargs = _arguments(example_input)
    shapes = torch.export.ShapesCollection()  # type: ignore[no-untyped-call]
    for tensor in pytree.tree_leaves((args, kwargs)):
        if any_batch and isinstance(tensor, Tensor) and tensor.dim():
            shapes[tensor] = {0: torch.export.Dim.AUTO}
    with torch.no_grad():
        try:
            return torch.export.export(
                copy.deepcopy(converted).eval(),
                args,
                kwargs,
                dynamic_shapes=shapes if any_batch else None,
            )
        except Exception as error:
            raise _failed(converted, error) from error


def export_onnx(
    converted: nn.Module,
    path: Path | str,
    example_input: ExampleInput,
    *,
    any_batch: bool = True,
    tolerance: float = TOLERANCE,
) -> float:
    """Write a converted model's evaluation path as ONNX, and compare what onnxruntime makes of it.

    The file appears when the comparison has succeeded. Above 2 GB the weights stand beside it, in
    `<name>.data`. Needs the packages of the extra `export`.

    Args:
        converted: the model, as `convert` or `calibrate` made it, trained or not.
        path: the file to write; an older one is replaced.
        example_input: as for `export_program`; also what the outputs are compared on.
        any_batch: as for `export_program`.
        tolerance: largest difference of an output that is accepted.

    Returns:
        The largest difference between the outputs of torch and of onnxruntime.

    Raises:
        ConversionError: the model was not converted.
        BundleError: `export_failed`, when the model cannot be exported or the outputs differ more;
            `library_missing`.
    """
    path = Path(path)
    _check_libraries()
    program = export_program(converted, example_input, any_batch=any_batch)
    num_bytes = sum(one.nbytes for one in converted.state_dict().values())
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        written = Path(folder) / path.name
        try:
            torch.onnx.export(
                program,
                f=written,
                verbose=False,
                external_data=num_bytes > _MOST_BYTES_IN_ONE_FILE,
            )
        except Exception as error:
            raise _failed(converted, error) from error
        difference = _difference(converted, written, example_input)
        if not difference <= tolerance:  # not a number is no agreement
            raise BundleError(
                f"onnxruntime gives outputs that differ by {difference:g} from torch's, more than "
                f"{tolerance:g}; try inputs as the model knows them, or a higher tolerance",
                code="export_failed",
            )
        # The weights first: the file that names them is never there without.
        for part in sorted(Path(folder).iterdir(), key=lambda one: one == written):
            part.replace(path.parent / part.name)
    return difference


def _difference(converted: nn.Module, file: Path, example_input: ExampleInput) -> float:
    import onnxruntime

    args, kwargs = _arguments(example_input)
    with torch.no_grad():
        output = copy.deepcopy(converted).eval()(*args, **kwargs)
    expected = [one for one in pytree.tree_leaves(output) if isinstance(one, Tensor)]
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    given = [one for one in pytree.tree_leaves((args, kwargs)) if isinstance(one, Tensor)]
    names = [one.name for one in session.get_inputs()]
    feed = {name: one.cpu().numpy() for name, one in zip(names, given, strict=True)}
    found = [torch.from_numpy(one) for one in session.run(None, feed)]
    return max(
        float((one - other.cpu()).abs().max()) for one, other in zip(found, expected, strict=True)
    )


def _check_libraries() -> None:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise BundleError(
            f"ONNX needs {error.name}, which is not installed; pip install 'momentum-zoo[export]'",
            code="library_missing",
        ) from None


def _failed(converted: nn.Module, error: Exception) -> BundleError:
    reason = (str(error).splitlines() or [""])[0][:300]
    return BundleError(
        f"{type(converted).__qualname__} cannot be exported: {type(error).__name__}: {reason}; try "
        "any_batch=False, or an example input of two",
        code="export_failed",
    )


def _arguments(example_input: ExampleInput) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(example_input, Tensor):
        return (example_input,), {}
    if isinstance(example_input, Mapping):
        return (), dict(example_input)
    return tuple(example_input), {}
