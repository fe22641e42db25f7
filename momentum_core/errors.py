"""The errors that `momentum_core` raises for its users' mistakes.

    MomentumError
    ├── ConfigError (ValueError)        an option has a value it cannot have
    ├── CheckpointError (ValueError)    a file is not a checkpoint that may be read
    ├── ArchitectureError (ValueError)  weights and architecture do not belong together
    ├── ConversionError (ValueError)    a model has no part that can be converted
    ├── ReversibilityError (RuntimeError)   a run cannot be reversed exactly
    │   └── StateRangeError             an activation does not fit the integer state
    ├── DataError (ValueError)          training or test data cannot be used
    └── BundleError (ValueError)        a folder is not a bundle that can be loaded

Every message says what is wrong, what was given, and what to do. Every error has a `code`: a stable
word for programs, the same in the library, in a job's record and in an HTTP answer.
"""

from __future__ import annotations


class MomentumError(Exception):
    """Base of every error that a user of `momentum_core` can cause and mend."""

    code = "momentum_error"

    def __init__(self, message: str, *, code: str | None = None) -> None:
        super().__init__(message)
        if code is not None:
            self.code = code


class ConfigError(MomentumError, ValueError):
    """An option has a value that it cannot have."""

    code = "invalid_option"


class CheckpointError(MomentumError, ValueError):
    """A file is not a checkpoint that may be read; `code` says which rule it broke."""

    code = "malformed_file"


class ArchitectureError(MomentumError, ValueError):
    """The weights do not belong to the architecture, or it is not known."""

    code = "architecture_mismatch"


class ConversionError(MomentumError, ValueError):
    """A model has no part that can be converted, or a part was asked for that cannot."""

    code = "not_convertible"


class ReversibilityError(MomentumError, RuntimeError):
    """A run cannot be reversed exactly under the circumstances it was used in."""

    code = "not_reversible"


class StateRangeError(ReversibilityError):
    """An activation is NaN, infinite, or too large for the integer state."""

    code = "state_out_of_range"


class DataError(MomentumError, ValueError):
    """Training or test data are missing, malformed or do not fit the model."""

    code = "invalid_data"


class BundleError(MomentumError, ValueError):
    """A folder is not a bundle that can be loaded."""

    code = "invalid_bundle"
