"""Which class and which part each member of an archive belongs to, from the paths alone."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from momentum_core.checkpoint.limits import Limits
from momentum_core.checkpoint.refusal import refuse, shown
from momentum_core.image_archive.archive import REMEDY, Member

TRAIN, TEST = 0, 1
HELD_BACK = 5
"""Without a test folder, one image of this many is held back in each class."""

MAX_CLASS_CHARACTERS = 100
_TRAIN_FOLDERS = frozenset({"train", "training"})
_TEST_FOLDERS = ("test", "testing", "val", "valid", "validation")
_NO_IMAGES = (
    *(".txt", ".md", ".csv", ".tsv", ".json", ".xml", ".yaml", ".yml", ".html", ".pdf", ".py"),
    *(".ini", ".db", ".npy", ".mat", ".pkl", ".url"),
)
_ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".zst", ".bz2", ".xz", ".7z", ".rar")


@dataclass(frozen=True, slots=True)
class Layout:
    """What the members of an archive are, by their number in it.

    Attributes:
        classes: names of the classes, sorted; the label is the place in the list.
        parts: `TRAIN`, `TEST`, or -1 for what is no image.
        labels: the class of each image, -1 for what is none.
        counts: images in each part, readable or not.
        ignored: files that are no images of a class.
    """

    classes: tuple[str, ...]
    parts: array[int]
    labels: array[int]
    counts: tuple[int, int]
    ignored: tuple[str, ...]


def find_layout(members: Iterable[Member], limits: Limits) -> Layout:
    """Find classes and parts: `train/<class>/...` and `test/<class>/...`, or `<class>/...`.

    Folders that all paths begin with are passed over, and so are hidden files. Labels follow the
    sorted names of the class folders, as in torchvision's `ImageFolder`.

    Args:
        members: the members, in the archive's order.
        limits: how many classes there may be.

    Raises:
        CheckpointError: `no_images`, `invalid_data`, `unsupported_format` for archives in the
            archive, or the code of the rule that the archive breaks.
    """
    paths = [None if _is_hidden(one) else _folded(one) for one in members]
    files = [path for path in paths if path and path[-1]]
    _check_unique(files)
    skip = _common_folders(files)
    has_parts = bool(files) and all(_is_part(path[skip]) for path in files if len(path) > skip + 1)
    has_parts = has_parts and any(path[skip] in _TRAIN_FOLDERS for path in files)
    tested = _test_folder(files, skip) if has_parts else None
    class_at = skip + 1 if has_parts else skip
    labelled: list[tuple[int, int, str]] = []
    classes: set[str] = set()
    ignored: list[str] = []
    for number, path in enumerate(paths):
        if path is None or (not path[-1] and len(path) <= class_at + 1):
            continue
        part = TRAIN
        if has_parts and len(path) > skip and path[skip] not in _TRAIN_FOLDERS:
            part = TEST if path[skip] == tested else -1
        is_image = bool(path[-1]) and not path[-1].lower().endswith(_NO_IMAGES + _ARCHIVES)
        if part < 0 or len(path) < class_at + 2 or not (is_image or not path[-1]):
            ignored.append("/".join(path))
            continue
        classes.add(path[class_at])
        if is_image:
            labelled.append((number, part, path[class_at]))
    _check_classes(classes, labelled, files, limits)
    return _layout(tuple(sorted(classes)), labelled, paths, tuple(ignored), split=tested is None)


def _is_hidden(member: Member) -> bool:
    return any(part.startswith((".", "__MACOSX")) for part in member.parts) or (
        member.parts[-1:] in (("Thumbs.db",), ("desktop.ini",), ())
    )


def _folded(member: Member) -> tuple[str, ...]:
    """Return the path; that of a folder ends in an empty part."""
    return (*member.parts, "") if member.is_folder else member.parts


def _check_unique(files: list[tuple[str, ...]]) -> None:
    if len(set(files)) != len(files):
        twice, _ = Counter(files).most_common(1)[0]
        raise refuse("unsafe_archive", f"the archive holds {shown('/'.join(twice))} twice")


def _is_part(folder: str) -> bool:
    return folder in _TRAIN_FOLDERS or folder in _TEST_FOLDERS


def _common_folders(files: list[tuple[str, ...]]) -> int:
    """Return how many folders all files share in front of the folders that mean something."""
    skip = 0
    while files and all(len(path) > skip + 2 and path[skip] == files[0][skip] for path in files):
        if _is_part(files[0][skip]):
            break
        skip += 1
    return skip


def _test_folder(files: list[tuple[str, ...]], skip: int) -> str | None:
    """Return the first test folder that has classes in it; some hold images without labels."""
    for name in _TEST_FOLDERS:
        if any(path[skip] == name and len(path) > skip + 2 for path in files if len(path) > skip):
            return name
    return None


def _check_classes(
    classes: set[str],
    labelled: list[tuple[int, int, str]],
    files: list[tuple[str, ...]],
    limits: Limits,
) -> None:
    if not labelled:
        if any(path[-1].lower().endswith(_ARCHIVES) for path in files):
            raise refuse(
                "unsupported_format",
                "the archive holds further archives, which are not opened; pack the images "
                f"themselves: {REMEDY}",
            )
        raise refuse("no_images", f"no folder of the archive holds images; {REMEDY}")
    if len(classes) > limits.max_classes:
        raise refuse(
            "invalid_data",
            f"the archive has {len(classes)} class folders; the limit is {limits.max_classes}",
        )
    if long := [name for name in sorted(classes) if len(name) > MAX_CLASS_CHARACTERS]:
        raise refuse(
            "invalid_data",
            f"the class {shown(long[0])} has {len(long[0])} characters; "
            f"the limit is {MAX_CLASS_CHARACTERS}",
        )
    trained = {name for _, part, name in labelled if part == TRAIN}
    if empty := sorted(classes - trained):
        raise refuse(
            "invalid_data",
            f"{len(empty)} of {len(classes)} classes have no training image, the first is "
            f"{shown(empty[0])}; add some or remove the folder",
        )


def _layout(
    classes: tuple[str, ...],
    labelled: list[tuple[int, int, str]],
    paths: list[tuple[str, ...] | None],
    ignored: tuple[str, ...],
    *,
    split: bool,
) -> Layout:
    label_of = {name: label for label, name in enumerate(classes)}
    parts, labels = array("b", [-1]) * len(paths), array("i", [-1]) * len(paths)
    for number, part, name in labelled:
        parts[number], labels[number] = part, label_of[name]
    if split:
        # In the order of the names, so that packing the same folder again splits it the same.
        seen: Counter[str] = Counter()
        for number, _, name in sorted(labelled, key=lambda item: paths[item[0]] or ()):
            seen[name] += 1
            if seen[name] % HELD_BACK == 0:
                parts[number] = TEST
        if not any(part == TEST for part in parts):
            raise refuse(
                "invalid_data",
                f"there is no test folder, and no class has {HELD_BACK} images to hold one back; "
                "add a test folder",
            )
    return Layout(classes, parts, labels, (parts.count(TRAIN), parts.count(TEST)), ignored)
