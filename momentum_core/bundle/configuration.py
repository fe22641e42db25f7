"""A bundle's `config.json`: all that it takes to build the model again, with a version.

schema 3   the whole plan; architectures of libraries, or of the caller
schema 2   an architecture of this project, conversion options, and the rules of its runs
schema 1   likewise, without rules
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from typing import Any

from momentum_core.bundle.details import BundleDetails
from momentum_core.config import ConversionConfig, Preprocessing
from momentum_core.conversion import ConversionPlan, RunRule, plan_architecture, plan_from_json
from momentum_core.errors import BundleError, MomentumError

FORMAT = "momentum_zoo"
SCHEMA = 3
_OLDER = (1, 2)


@dataclass(frozen=True, kw_only=True, slots=True)
class BundleConfig:
    """What a bundle says of its model."""

    details: BundleDetails
    plan: ConversionPlan

    module_formats: Mapping[str, int] = field(default_factory=dict)
    """Versions of the modules' formats, as torch keeps them beside a state; those of 1 left out."""

    versions: Mapping[str, str] = field(default_factory=dict)
    """Of the libraries that made it."""

    schema: int = SCHEMA

    def to_json(self) -> dict[str, Any]:
        """Return the configuration as JSON values.

        Raises:
            BundleError: `source` is no JSON.
            ConversionError: a block returns what JSON cannot describe.
        """
        details = self.details
        values = {
            "format": FORMAT,
            "schema": SCHEMA,
            "architecture": details.architecture,
            "num_classes": details.num_classes,
            "preprocessing": details.preprocessing and asdict(details.preprocessing),
            "input_shape": details.input_shape and list(details.input_shape),
            "source": dict(details.source),
            "plan": self.plan.to_json(),
            "module_formats": dict(self.module_formats),
            "versions": dict(self.versions),
        }
        try:
            json.dumps(values, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise BundleError(f"the details are no JSON: {error}; use plain values") from None
        return values


def library_versions() -> dict[str, str]:
    """Return the versions of what builds and runs a model here."""
    return {name: version(name) for name in ("momentum-zoo", "torch", "torchvision", "safetensors")}


def parse(text: str | bytes, where: str) -> BundleConfig:
    """Return the configuration that `to_json` gave as JSON text.

    Args:
        text: the JSON.
        where: what it was found in, for messages.

    Raises:
        BundleError: it is damaged, of a later schema, or of another program.
    """
    try:
        values = json.loads(text)
    except ValueError as error:
        raise BundleError(f"{where} is damaged: {error}; download it again") from None
    if (
        not isinstance(values, dict)
        or "schema" not in values
        or values.get("format", FORMAT) != FORMAT
    ):
        raise BundleError(
            f"{where} is not of a momentum model, but of another program; give a folder that "
            "momentum_core.bundle.save wrote, or the weights that GET /jobs/{id}/weights returned"
        )
    schema = values["schema"]
    if isinstance(schema, int) and schema > SCHEMA:
        raise BundleError(
            f"{where} has schema {schema}, this version reads up to {SCHEMA}; update momentum-zoo "
            f"(it was written by {_writer(values)})"
        )
    try:
        return _parse_older(values) if schema in _OLDER else _parse(values)
    except (MomentumError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BundleError(
            f"{where} is damaged ({type(error).__name__}: {error}); download it again"
        ) from None


def _parse(values: dict[str, Any]) -> BundleConfig:
    if values["schema"] != SCHEMA:
        raise ValueError(f"its schema is {values['schema']!r}")
    shape = values["input_shape"]
    return BundleConfig(
        details=BundleDetails(
            architecture=values["architecture"],
            num_classes=values["num_classes"],
            preprocessing=_preprocessing(values),
            input_shape=None if shape is None else tuple(shape),
            source=dict(values["source"]),
        ),
        plan=plan_from_json(values["plan"]),
        module_formats={name: int(one) for name, one in values["module_formats"].items()},
        versions=dict(values["versions"]),
    )


def _parse_older(values: dict[str, Any]) -> BundleConfig:
    rules = values.get("rules")
    plan = plan_architecture(
        values["architecture"],
        num_classes=values["num_classes"],
        config=ConversionConfig(**values["conversion"]),
    )
    return BundleConfig(
        details=BundleDetails(
            architecture=values["architecture"],
            num_classes=values["num_classes"],
            preprocessing=_preprocessing(values),
        ),
        plan=plan if rules is None else plan.with_rules(RunRule.from_json(one) for one in rules),
        schema=values["schema"],
    )


def _preprocessing(values: dict[str, Any]) -> Preprocessing | None:
    given = values["preprocessing"]
    return given and Preprocessing(mean=tuple(given["mean"]), std=tuple(given["std"]))


def _writer(values: dict[str, Any]) -> str:
    versions = values.get("versions")
    known = versions.get("momentum-zoo") if isinstance(versions, dict) else None
    return f"momentum-zoo {known}" if known else "a later version"
