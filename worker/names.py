"""What the settings say of names: where hubs are, which architectures and data sets there are."""

from __future__ import annotations

from momentum_core.architectures import register_by_path
from worker.contract.settings import Settings
from worker.library_zoo import Hub
from worker.registered_datasets import RegisteredDatasets


def hub_of(settings: Settings) -> Hub:
    """Return the hub of the settings."""
    folder = settings.hub_dir and settings.hub_dir.expanduser().resolve()
    return Hub(url=settings.hub_url, folder=folder, cache=settings.zoo_folder / "hub")


def datasets_of(settings: Settings) -> RegisteredDatasets:
    """Return the data sets in the operator's folder."""
    folder = settings.datasets_dir and settings.datasets_dir.expanduser().resolve()
    return RegisteredDatasets(folder, settings.limits)


def register_architectures(settings: Settings) -> None:
    """Register the operator's architectures with this process.

    Raises:
        ArchitectureError: one cannot be imported.
    """
    for name, path in settings.architectures.items():
        register_by_path(name, path)
