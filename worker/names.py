"""What the settings say of names: where hubs are, and which architectures are the operator's."""

from __future__ import annotations

from momentum_core.architectures import register_by_path
from worker.contract.settings import Settings
from worker.library_zoo import Hub


def hub_of(settings: Settings) -> Hub:
    """Return the hub of the settings."""
    folder = settings.hub_dir and settings.hub_dir.expanduser().resolve()
    return Hub(url=settings.hub_url, folder=folder, cache=settings.zoo_folder / "hub")


def register_architectures(settings: Settings) -> None:
    """Register the operator's architectures with this process.

    Raises:
        ArchitectureError: one cannot be imported.
    """
    for name, path in settings.architectures.items():
        register_by_path(name, path)
