"""Which class and which part each member of an archive belongs to, from its path or its key.

class folders        train/ants/1.jpg, test/bees/2.jpg, or ants/1.jpg
shards (WebDataset)  000.jpg and 000.cls with the class; with or without train/ and test/
images alone         photos/1.jpg, or train/1.jpg and test/2.jpg: no labels
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from momentum_core.checkpoint.limits import Limits
from momentum_core.checkpoint.refusal import refuse, shown
from momentum_core.errors import CheckpointError
from momentum_core.image_archive.archive import REMEDY, Member
from momentum_core.image_archive.member_paths import (
    TEST,
    TRAIN,
    MemberPath,
    Parts,
    is_archive,
    is_class_file,
    may_be_image,
    path_of,
    sample_of,
)

HELD_BACK = 5
"""Without a test folder, one image of this many is held back in each class."""

MAX_CLASS_CHARACTERS = 100
_MAX_CLASS_FILE_BYTES = 4 * MAX_CLASS_CHARACTERS


@dataclass(frozen=True, slots=True)
class Layout:
    """What the members of an archive are, by their number in it.

    Attributes:
        classes: names of the classes in the order of their labels; none without labels.
        is_numbered: whether the labels were given as numbers: there may be more than the largest.
        may_lack: whether a class may have no image to train with.
        parts: `TRAIN`, `TEST`, or -1 for what is no image.
        labels: the class of each image, -1 for what has none.
        counts: images in each part, readable or not.
        ignored: files that are no images of a class.
    """

    classes: tuple[str, ...]
    is_numbered: bool
    may_lack: bool
    parts: array[int]
    labels: array[int]
    counts: tuple[int, int]
    ignored: tuple[str, ...]


def find_layout(members: Iterable[Member], limits: Limits) -> Layout:
    """Find classes and parts: from class files if there are any, else from folders.

    Folders that all paths begin with are passed over, and so are hidden files. Labels follow the
    sorted names of the class folders, as in torchvision's `ImageFolder`; in shards they are the
    numbers in the class files, or follow the sorted names in them. Where one folder holds all
    images, or none does, there are no labels.

    Args:
        members: the members, in the archive's order; class files are read.
        limits: how many classes there may be.

    Raises:
        CheckpointError: `no_images`, `invalid_data`, `unsupported_format` for archives in the
            archive, or the code of the rule that the archive breaks.
    """
    paths: list[MemberPath | None] = []
    class_files: dict[MemberPath, str] = {}
    for member in members:
        paths.append(path := path_of(member))
        if path is not None and is_class_file(path):
            class_files[sample_of(path)] = _class_in(member)
    files = [path for path in paths if path and path[-1]]
    _check_unique(files)
    if class_files:
        found = _in_shards(paths, files, class_files, limits)
    else:
        found = _in_class_folders(paths, files)
        if len(found.classes) < 2:
            found = _without_classes(paths, files)
    _check_images(found, files)
    _check_classes(found, limits)
    return _layout(found, paths)


@dataclass(slots=True)
class _Found:
    """The images of an archive, as far as names tell."""

    is_split: bool
    """Whether there is a test folder."""

    is_numbered: bool = False
    classes: set[str] = field(default_factory=set)
    images: list[tuple[int, int, str]] = field(default_factory=list)
    """Number in the archive, part, and name of the class; that is empty without labels."""

    ignored: list[str] = field(default_factory=list)


def _class_in(member: Member) -> str:
    found = ""
    if member.num_bytes <= _MAX_CLASS_FILE_BYTES:
        try:
            found = member.read().decode("utf-8", "replace").strip()
        except CheckpointError as error:
            message = f"the class file {shown(member.path)}: {error}"
            raise CheckpointError(message, code=error.code) from None
    if not found or not found.isprintable():
        raise refuse(
            "invalid_data",
            f"the class file {shown(member.path)} holds neither the number nor the name of a "
            "class, which is all that it may hold",
        )
    return found


def _check_unique(files: Sequence[MemberPath]) -> None:
    if len(set(files)) != len(files):
        twice, _ = Counter(files).most_common(1)[0]
        raise refuse("unsafe_archive", f"the archive holds {shown('/'.join(twice))} twice")


def _in_class_folders(paths: Sequence[MemberPath | None], files: Sequence[MemberPath]) -> _Found:
    """Find the images of class folders; folders without any count as classes, too."""
    parts = Parts.find(files, depth=1)
    found = _Found(is_split=parts.tested is not None)
    for number, path in enumerate(paths):
        if path is None or (not path[-1] and len(path) <= parts.end + 1):
            continue
        part, is_image = parts.of(path), may_be_image(path)
        if part < 0 or len(path) < parts.end + 2 or not (is_image or not path[-1]):
            found.ignored.append("/".join(path))
            continue
        found.classes.add(name := path[parts.end])
        if is_image:
            found.images.append((number, part, name))
    return found


def _without_classes(paths: Sequence[MemberPath | None], files: Sequence[MemberPath]) -> _Found:
    """Find all images, wherever they lie in their part."""
    parts = Parts.find(files, depth=0)
    found = _Found(is_split=parts.tested is not None)
    for number, path in enumerate(paths):
        if path is None or not path[-1]:
            continue
        if (part := parts.of(path)) >= 0 and may_be_image(path):
            found.images.append((number, part, ""))
        else:
            found.ignored.append("/".join(path))
    return found


def _in_shards(
    paths: Sequence[MemberPath | None],
    files: Sequence[MemberPath],
    class_files: dict[MemberPath, str],
    limits: Limits,
) -> _Found:
    """Find the images whose sample has a class file; what else it has is passed over."""
    parts = Parts.find(files, depth=0)
    found = _Found(is_split=parts.tested is not None)
    for number, path in enumerate(paths):
        if path is None or not path[-1] or is_class_file(path):
            continue
        name, part = class_files.get(sample_of(path)), parts.of(path)
        if name is None or part < 0:
            found.ignored.append("/".join(path))
        elif may_be_image(path):
            found.images.append((number, part, name))
    names = {name for _, _, name in found.images}
    found.is_numbered = all(name.isascii() and name.isdigit() for name in names)
    if found.is_numbered and names:
        highest = max(map(_number, names))
        if highest >= limits.max_classes:
            raise refuse(
                "invalid_data",
                f"a class file holds the number {highest}; the limit is {limits.max_classes} "
                "classes, which are counted from 0",
            )
        found.images = [(place, part, str(_number(name))) for place, part, name in found.images]
        names = set(map(str, range(highest + 1)))
    found.classes = names
    return found


def _number(name: str) -> int:
    # A number of a thousand digits is as wrong as one of ten; zeros in front are none.
    return int(name.lstrip("0")[:10] or "0")


def _check_images(found: _Found, files: Sequence[MemberPath]) -> None:
    if found.images:
        return
    if any(is_archive(path) for path in files):
        raise refuse(
            "unsupported_format",
            "the archive holds further archives, which are not opened; pack the images "
            f"themselves: {REMEDY}",
        )
    raise refuse("no_images", f"the archive holds no images; {REMEDY}")


def _check_classes(found: _Found, limits: Limits) -> None:
    classes = sorted(found.classes)
    if len(classes) > limits.max_classes:
        raise refuse(
            "invalid_data",
            f"the archive has {len(classes)} classes; the limit is {limits.max_classes}",
        )
    if long := [name for name in classes if len(name) > MAX_CLASS_CHARACTERS]:
        raise refuse(
            "invalid_data",
            f"the class {shown(long[0])} has {len(long[0])} characters; "
            f"the limit is {MAX_CLASS_CHARACTERS}",
        )
    trained = {name for _, part, name in found.images if part == TRAIN}
    if not found.is_numbered and (empty := sorted(found.classes - trained)):
        raise refuse(
            "invalid_data",
            f"{len(empty)} of {len(classes)} classes have no training image, the first is "
            f"{shown(empty[0])}; add some or remove the folder",
        )


def _layout(found: _Found, paths: Sequence[MemberPath | None]) -> Layout:
    classes = sorted(found.classes, key=int) if found.is_numbered else sorted(found.classes)
    label_of = {name: label for label, name in enumerate(classes)}
    parts, labels = array("b", [-1]) * len(paths), array("i", [-1]) * len(paths)
    for number, part, name in found.images:
        parts[number], labels[number] = part, label_of.get(name, -1)
    if not found.is_split:
        # In the order of the names, so that packing the same folder again splits it the same.
        seen: Counter[str] = Counter()
        for number, _, name in sorted(found.images, key=lambda item: paths[item[0]] or ()):
            seen[name] += 1
            if seen[name] % HELD_BACK == 0:
                parts[number] = TEST
    if TEST not in parts:
        raise refuse(
            "invalid_data",
            f"there is no test folder, and no class has {HELD_BACK} images to hold one back; "
            "add a test folder",
        )
    counts = (parts.count(TRAIN), parts.count(TEST))
    return Layout(
        classes=tuple(classes),
        is_numbered=found.is_numbered,
        may_lack=found.is_numbered,
        parts=parts,
        labels=labels,
        counts=counts,
        ignored=tuple(found.ignored),
    )
