"""What the path of an archive's member tells: whether it counts, and whether it trains or tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from momentum_core.image_archive.archive import Member

TRAIN, TEST = 0, 1

MemberPath = tuple[str, ...]
"""That of a folder ends in an empty part."""

_TRAIN_FOLDERS = frozenset({"train", "training"})
_TEST_FOLDERS = ("test", "testing", "val", "valid", "validation")
CLASS_FILE = ".cls"
_NO_IMAGES = (
    *(".txt", ".md", ".csv", ".tsv", ".json", ".xml", ".yaml", ".yml", ".html", ".pdf", ".py"),
    *(".ini", ".db", ".npy", ".mat", ".pkl", ".url", CLASS_FILE),
)
_ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".zst", ".bz2", ".xz", ".7z", ".rar")


def path_of(member: Member) -> MemberPath | None:
    """Return the path of a member, or None for what programs leave behind and nobody means."""
    is_hidden = any(part.startswith((".", "__MACOSX")) for part in member.parts)
    if is_hidden or member.parts[-1:] in (("Thumbs.db",), ("desktop.ini",), ()):
        return None
    return (*member.parts, "") if member.is_folder else member.parts


def may_be_image(path: MemberPath) -> bool:
    """Return whether a file may be an image, as far as its name tells."""
    return bool(path[-1]) and not path[-1].lower().endswith(_NO_IMAGES + _ARCHIVES)


def is_archive(path: MemberPath) -> bool:
    """Return whether a file is an archive, by its name."""
    return path[-1].lower().endswith(_ARCHIVES)


def is_class_file(path: MemberPath) -> bool:
    """Return whether a file holds the class of a sample (WebDataset)."""
    return path[-1].lower().endswith(CLASS_FILE)


def is_part_folder(name: str) -> bool:
    """Return whether a folder of this name holds the training or the test part."""
    return name in _TRAIN_FOLDERS or name in _TEST_FOLDERS


def sample_of(path: MemberPath) -> MemberPath:
    """Return what the files of one sample share: the name up to its first dot (WebDataset)."""
    return (*path[:-1], path[-1].partition(".")[0])


@dataclass(frozen=True, slots=True)
class Parts:
    """Training and test folders, below the folders that all files share.

    Attributes:
        start: number of those folders.
        has_folders: whether there are a training and other such folders.
        tested: name of the folder of the test images, if there is one.
    """

    start: int
    has_folders: bool
    tested: str | None

    @classmethod
    def find(cls, files: Sequence[MemberPath], *, depth: int) -> Self:
        """Find them where images lie so many folders deep, that of the part not counted."""
        start = _num_shared(files, depth)
        deeper = [path for path in files if len(path) > start + 1]
        folders = {path[start] for path in deeper}
        has_folders = bool(folders & _TRAIN_FOLDERS) and all(map(is_part_folder, folders))
        # Some test folders hold images without the class folders that the others have.
        full = {path[start] for path in deeper if len(path) > start + 1 + depth}
        tested = next((name for name in _TEST_FOLDERS if has_folders and name in full), None)
        return cls(start, has_folders, tested)

    @property
    def end(self) -> int:
        """Number of folders up to those of the parts, these counted."""
        return self.start + self.has_folders

    def of(self, path: MemberPath) -> int:
        """Return `TRAIN`, `TEST`, or -1 for what is in neither."""
        if not self.has_folders or len(path) <= self.start or path[self.start] in _TRAIN_FOLDERS:
            return TRAIN
        return TEST if path[self.start] == self.tested else -1


def _num_shared(files: Sequence[MemberPath], depth: int) -> int:
    """Return how many folders all files share in front of the folders that mean something."""
    count = 0
    while files and all(
        len(path) > count + 1 + depth and path[count] == files[0][count] for path in files
    ):
        if is_part_folder(files[0][count]):
            break
        count += 1
    return count
