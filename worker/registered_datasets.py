"""Data sets that the operator registered: what lies in a folder of the worker, by name."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from momentum_core.checkpoint import DatasetFacts, Limits
from momentum_core.checkpoint.npz_dataset import open_source
from momentum_core.durable_files import new_file
from momentum_core.errors import CheckpointError, DataError
from momentum_core.image_archive import ImageForm
from momentum_core.image_archive.folder import FolderArchive
from momentum_core.image_archive.inspection import inspect_open_dataset, write_dataset
from momentum_core.image_archive.layout import find_layout
from worker.contract.request import DATASET_NAME, MAX_DATASET_NAMES
from worker.torchvision_datasets import open_torchvision

_FILES = (".npz", ".zip", ".tar", ".tar.gz", ".tgz", ".tar.zst")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RegisteredDatasets:
    """The data sets of this worker.

    They are the operator's, who may put there what he trusts: nothing of it is read behind walls.

    Attributes:
        folder: each folder or data file in it is a data set of that name; None if there are none.
        limits: how large they may be.
    """

    folder: Path | None
    limits: Limits

    def names(self) -> tuple[str, ...]:
        """Return the names of all that there are at this moment, sorted."""
        with suppress(OSError):
            return tuple(name for name, is_usable in self._there() if is_usable)[:MAX_DATASET_NAMES]
        return ()

    def look(self) -> None:
        """Say in the log what in the folder can be no data set, or that there is no such folder."""
        try:
            odd = [name for name, is_usable in self._there() if not is_usable]
        except OSError as error:
            logger.warning("the folder of MOMENTUM_DATASETS_DIR cannot be read: %s", error)
            return
        if odd:
            logger.warning(
                "in the folder of MOMENTUM_DATASETS_DIR are no data sets: %s; these are folders, "
                "archives and .npz files with names of up to 100 letters, digits, dots, dashes or "
                "underscores",
                ", ".join(map(ascii, odd[:10])),
            )

    def _there(self) -> Iterator[tuple[str, bool]]:
        """Yield each name in the folder, and whether it is a data set's."""
        paths = [] if self.folder is None else sorted(self.folder.iterdir())
        for path in paths:
            is_form = path.name.lower().endswith(_FILES) or _is_folder(path)
            if not _is_hidden(path):
                yield path.name, is_form and bool(re.fullmatch(DATASET_NAME, path.name))

    def prepare(
        self, name: str, target: Path, *, num_classes: int | None, form: ImageForm
    ) -> tuple[DatasetFacts, Path]:
        """Return what is in a data set, and the `.npz` that jobs read.

        Args:
            name: one of `names`.
            target: where to write that, unless it is one already; its folder exists.
            num_classes: outputs of the network, which the classes must match; None takes any.
            form: what the images become.

        Raises:
            DataError: `unknown_dataset`, or the code of what is wrong with it.
        """
        if self.folder is None or name not in self.names():
            raise DataError(
                f"this worker has no data set {name!r} (it has "
                f"{', '.join(self.names()[:20]) or 'none'}); put it into the folder of "
                "MOMENTUM_DATASETS_DIR",
                code="unknown_dataset",
            )
        path = (self.folder / name).resolve()
        try:
            if path.is_dir():
                facts = self._prepare_folder(path, target, num_classes, form)
            else:
                facts = self._prepare_file(path, target, num_classes, form)
        except CheckpointError as error:
            raise DataError(f"data set {name!r}: {error}", code=error.code) from None
        return facts, path if facts.format == "npz" else target

    def _prepare_folder(
        self, path: Path, target: Path, num_classes: int | None, form: ImageForm
    ) -> DatasetFacts:
        archive = open_torchvision(path) or FolderArchive(path, self.limits)
        layout = (
            find_layout(archive.members(), self.limits)
            if isinstance(archive, FolderArchive)
            else archive.layout
        )
        with new_file(target) as output:
            return write_dataset(
                archive, layout, output, num_classes=num_classes, form=form, limits=self.limits
            )

    def _prepare_file(
        self, path: Path, target: Path, num_classes: int | None, form: ImageForm
    ) -> DatasetFacts:
        with open_source(path) as source, new_file(target) as output:
            return inspect_open_dataset(
                source, output, num_classes=num_classes, form=form, limits=self.limits
            )


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # a link into what this worker may not read
        return False


def _is_hidden(path: Path) -> bool:
    return path.name.startswith(".") or path.name == "lost+found"
