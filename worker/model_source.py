"""From what a job names to a network with its weights, and to images and labels.

Nothing here opens a stranger's file: what was sent comes as the intake left it, and a registered
data set is the operator's.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import nn

from momentum_core.architectures import build_named, library_signature, named_input_shape
from momentum_core.checkpoint import (
    CheckpointFacts,
    Dataset,
    DatasetFacts,
    read_dataset,
    read_dataset_facts,
)
from momentum_core.config import Preprocessing
from momentum_core.errors import DataError
from momentum_core.image_archive import ImageForm
from momentum_core.refinement import synthetic_images
from worker.contract.file_store import FileStore
from worker.contract.intake import inspect_checkpoint
from worker.contract.job import Upload
from worker.contract.request import ConvertRequest
from worker.contract.zoo import ZooEntry
from worker.library_zoo import Hub, find_entry
from worker.registered_datasets import RegisteredDatasets
from worker.zoo import fetch_zoo_checkpoint, shipped_dataset


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadedSource:
    """What a job starts from."""

    model: nn.Module
    """The original network, in evaluation mode, on the CPU."""
    facts: CheckpointFacts
    zoo_entry: ZooEntry | None
    dataset: Dataset | None
    data: dict[str, Any] | None
    """The report's account of the data set."""
    is_synthetic: bool
    """Whether the images of the data set are made up."""
    preprocessing: Preprocessing | None

    def to_json(self) -> dict[str, Any]:
        """Return the report's account of where the weights come from."""
        entry = self.zoo_entry
        return self.facts.to_json() | {
            "zoo": entry
            and {
                "name": entry.name,
                "url": entry.url,
                "licence": entry.licence,
                "recipe": entry.recipe,
                "published_top1_percent": entry.published_top1,
            }
        }


class ModelSources:
    """Checkpoints and data sets of a store and of the zoo."""

    def __init__(
        self,
        files: FileStore,
        *,
        zoo_folder: Path,
        zoo_base_url: str | None,
        hub: Hub,
        datasets: RegisteredDatasets,
    ) -> None:
        self._files = files
        self._zoo_folder = zoo_folder
        self._zoo_base_url = zoo_base_url
        self._hub = hub
        self._datasets = datasets

    def load(
        self,
        request: ConvertRequest,
        checkpoint: Upload | None,
        data: Upload | None,
        folder: Path,
    ) -> LoadedSource:
        """Read the network and the data of a job.

        Args:
            request: what was asked for.
            checkpoint: the accepted upload; None for a zoo entry.
            data: the accepted data set; None takes the registered one that is named, or the zoo
                entry's own, if it has one.
            folder: for temporary files.

        Raises:
            CheckpointError: the zoo's file is not to be had.
            DamagedFileError: a stored file is lost or damaged.
            ArchitectureError: the weights do not fit.
            DataError: a registered data set is not usable.
        """
        entry = None if request.zoo_name is None else find_entry(request.zoo_name, self._hub)
        if checkpoint is not None:
            weights = self._files.verified_path(checkpoint.blob_sha256)
            facts = CheckpointFacts.from_json(checkpoint.facts)
        else:
            assert entry is not None, "the API lets no job pass without weights"
            weights = folder / "zoo.safetensors"
            source = fetch_zoo_checkpoint(entry, self._zoo_folder, base_url=self._zoo_base_url)
            facts = inspect_checkpoint(
                source,
                weights,
                architecture=entry.architecture,
                signature=library_signature(entry.architecture),
            )
        model = build_named(facts.architecture, num_classes=facts.num_classes)
        model.load_state_dict(load_file(weights))
        preprocessing = request.preprocessing
        if preprocessing is None and entry is not None:
            preprocessing = entry.preprocessing
        dataset, account = self._dataset(request, facts, entry, data, folder)
        return LoadedSource(
            model=model.eval(),
            facts=facts,
            zoo_entry=entry,
            dataset=dataset,
            data=account,
            is_synthetic=request.num_synthetic > 0,
            preprocessing=preprocessing,
        )

    def _dataset(
        self,
        request: ConvertRequest,
        facts: CheckpointFacts,
        entry: ZooEntry | None,
        data: Upload | None,
        folder: Path,
    ) -> tuple[Dataset | None, dict[str, Any] | None]:
        """Return the images and the report's account of them."""
        if request.num_synthetic:
            return _made_up(request, facts), {"origin": "synthetic"}
        if data is not None:
            path, account = self._files.verified_path(data.blob_sha256), data.facts
            account = {"origin": "sent"} | account
        elif (name := request.dataset_name) is not None:
            found, path = self._registered(name, request, facts, folder / "data.npz")
            account = {"origin": "registered", "name": name} | found.to_json()
        elif entry is not None and (shipped := shipped_dataset(entry)) is not None:
            path = shipped
            account = {"origin": "zoo"} | read_dataset_facts(shipped).to_json()
        else:
            return None, None
        dataset = read_dataset(path)
        return dataset if request.uses_labels else dataset.without_labels(), account

    def _registered(
        self, name: str, request: ConvertRequest, facts: CheckpointFacts, target: Path
    ) -> tuple[DatasetFacts, Path]:
        channels, side, _ = named_input_shape(facts.architecture)
        found, path = self._datasets.prepare(
            name,
            target,
            num_classes=facts.num_classes if request.keeps_classes else None,
            form=ImageForm.for_network(side, channels),
        )
        if found.image_shape[2] != channels:  # of an .npz, which is read as it is
            raise DataError(
                f"the images of data set {name!r} have {found.image_shape[2]} channels, "
                f"{facts.architecture} takes {channels}; convert them"
            )
        return found, path


def _made_up(request: ConvertRequest, facts: CheckpointFacts) -> Dataset:
    """Make synthetic images to train and to test with."""
    channels, side, _ = named_input_shape(facts.architecture)
    count = request.num_synthetic
    images = synthetic_images(count + count // 2, side=side, channels=channels, seed=request.seed)
    return Dataset(images[:count], None, images[count:], None)
