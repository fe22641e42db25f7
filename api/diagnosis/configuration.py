"""Settings: names that do not exist, values that cannot be used."""

from __future__ import annotations

from collections.abc import MutableMapping
from difflib import get_close_matches
from pathlib import Path

from pydantic import ValidationError

from api.diagnosis.findings import Finding, fault, ok
from worker.contract.settings import SECRETS_DIR_VARIABLE, Settings

_PREFIX = "MOMENTUM_"
_OF_COMMANDS = ("MOMENTUM_URL", "MOMENTUM_KEY")
_OF_TESTS = ("MOMENTUM_SHARED_DATA", "MOMENTUM_AXE")
_LOOK = "docs/settings.md lists all of them"


def check_settings(
    environment: MutableMapping[str, str], data_dir: Path | None
) -> tuple[Settings, list[Finding]]:
    """Read the settings; what cannot be used is taken out of the environment.

    Args:
        environment: the process's own.
        data_dir: in place of the setting, if given.

    Returns:
        The settings as they are without what cannot be used, and what was found.
    """
    known = tuple(f"{_PREFIX}{name.upper()}" for name in Settings.model_fields)
    findings = [_unknown(name, known) for name in _strangers(environment, known)]
    given = {} if data_dir is None else {"data_dir": data_dir}
    try:
        settings = Settings(**given)
    except ValidationError as error:
        for one in error.errors():
            name = f"{_PREFIX}{one['loc'][0]}".upper()
            value = environment.pop(name, "")
            findings.append(
                fault("settings", f"{name} is {value[:80]!r}: {one['msg']}", f"mend it; {_LOOK}")
            )
        settings = Settings(**given)
    if not findings:
        count = sum(name in environment for name in known)
        findings = [ok("settings", f"{count} set, the others have their defaults")]
    return settings, findings


def _strangers(environment: MutableMapping[str, str], known: tuple[str, ...]) -> list[str]:
    ours = {*known, SECRETS_DIR_VARIABLE, *_OF_COMMANDS, *_OF_TESTS}
    names = [name for name in environment if name.upper().startswith(_PREFIX)]
    return sorted(name for name in names if name.upper() not in ours)


def _unknown(name: str, known: tuple[str, ...]) -> Finding:
    near = get_close_matches(name.upper(), [*known, *_OF_COMMANDS], n=1, cutoff=0.7)
    remedy = f"was {near[0]} meant?" if near else f"unset it; {_LOOK}"
    return fault("settings", f"there is no setting {name}, so it does nothing", remedy)
