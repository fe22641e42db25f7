"""Fits the numbers of the momentum rule to the original's answers, on a few unlabelled batches.

watch             what runs are called with and return
student numbers   the momentum model in plain floats; the numbers that are fitted
channels          which dimension they belong to
stepwise joint    least squares block after block; then Adam on all of them
fidelity          how near the answers are
bench choose      one fit; the choice of gammas
calibrate         what people call
"""

from momentum_core.calibration.calibrate import CalibrationResult, calibrate
from momentum_core.calibration.choose import LADDER, GammaTrial
from momentum_core.calibration.fidelity import Fidelity

__all__ = ["LADDER", "CalibrationResult", "Fidelity", "GammaTrial", "calibrate"]
