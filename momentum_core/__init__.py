"""Momentum ResNets from pretrained residual networks: the library.

    errors, config      the error tree; every option, defined once
    checkpoint          reads strangers' checkpoints without torch and without running their code
    architectures       the networks that can be named
    reversible          the mathematics: runs of residual blocks that are exactly reversible
    conversion          from a residual model to a momentum model
    calibration         fits the rule of the momentum model to the original's answers
    refinement          trains the momentum model until it answers as the original does
    memory              what a training step holds, measured or predicted
    comparison          ways to train one network side by side
    bundle              saves a momentum model and loads it again
    export              its evaluation path for other runtimes: torch.export, ONNX

The names below are loaded when they are first used, so `import momentum_core` does not import
torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from momentum_core.architectures import register_architecture
    from momentum_core.bundle import BundleDetails, load, save
    from momentum_core.calibration import calibrate
    from momentum_core.comparison import measure_memory, predict_memory
    from momentum_core.config import (
        CalibrationConfig,
        ConversionConfig,
        MeasurementConfig,
        Preprocessing,
        RefinementConfig,
        RefinementGoal,
    )
    from momentum_core.conversion import convert, plan_conversion
    from momentum_core.export import export_onnx, export_program
    from momentum_core.refinement import TrainingImages, refine
    from momentum_core.reversible import MomentumStack

_HOME = {
    "BundleDetails": "bundle",
    "CalibrationConfig": "config",
    "ConversionConfig": "config",
    "MeasurementConfig": "config",
    "MomentumStack": "reversible",
    "Preprocessing": "config",
    "RefinementConfig": "config",
    "RefinementGoal": "config",
    "TrainingImages": "refinement",
    "calibrate": "calibration",
    "convert": "conversion",
    "export_onnx": "export",
    "export_program": "export",
    "load": "bundle",
    "measure_memory": "comparison",
    "plan_conversion": "conversion",
    "predict_memory": "comparison",
    "refine": "refinement",
    "register_architecture": "architectures",
    "save": "bundle",
}

__all__ = [
    "BundleDetails",
    "CalibrationConfig",
    "ConversionConfig",
    "MeasurementConfig",
    "MomentumStack",
    "Preprocessing",
    "RefinementConfig",
    "RefinementGoal",
    "TrainingImages",
    "calibrate",
    "convert",
    "export_onnx",
    "export_program",
    "load",
    "measure_memory",
    "plan_conversion",
    "predict_memory",
    "refine",
    "register_architecture",
    "save",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
