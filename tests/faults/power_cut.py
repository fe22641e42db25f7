"""What a power cut would leave of a folder: all that was not synced is lost.

`strace` writes down every call that changes files. `Disk` replays them and knows, for each file,
its size at its last sync and the ranges written since, and for each folder, the names at its last
sync. After everything was killed, `leave` makes a copy that has no more than that. It is stricter
than any file system, with these exceptions:

- the folder itself stands, and all that was in it at the beginning is synced;
- what was removed or cut short is gone at once, because its contents are: no name comes back;
- a rename over a synced name is atomic, and the new file has the name: the old one's contents are
  gone. It still has only what was synced of it.

Not seen are writes through a shared mapping, `copy_file_range` and the like, names that are
relative to the working folder, and which of two openings of a file at the same time a position
belongs to. `differences` tells when what was seen is not what is on the disk.
"""

from __future__ import annotations

import itertools
import os
import random
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path

_SYNCS = ("fsync", "fdatasync")
_WRITES = ("write", "writev", "pwrite64", "pwritev", "sendfile")
_CALLS = (
    *_SYNCS,
    *_WRITES,
    *("open", "openat", "creat", "lseek", "ftruncate", "truncate", "fallocate"),
    *("mkdir", "mkdirat", "link", "linkat", "symlink", "symlinkat"),
    *("rename", "renameat", "renameat2", "unlink", "unlinkat", "rmdir"),
)
_UNFINISHED = " <unfinished ...>"
_WHOLE = re.compile(r"(\w+)\((.*)\) += (\S+?)(?:<(.*)>(\(deleted\))?)?(?: .*)?$")
_DESCRIPTOR = re.compile(r"\d+<([^>]*)>(\(deleted\))?")
_NAME = re.compile(r'(?:(?:\d+|AT_FDCWD)<([^>]*)>, )?"([^"]*)"')


def traced(command: Iterable[str | Path], trace: Path) -> list[str | Path]:
    """Return the command that runs another one and writes down its calls, and its children's."""
    calls = f"trace={','.join(_CALLS)}"
    # No contents (-s 0), but the paths of descriptors (-y); only these calls are slower than usual.
    options = ["-f", "-qq", "-y", "-s", "0", "--seccomp-bpf", "-e", "signal=none", "-e", calls]
    return ["strace", *options, "-o", trace, *command]


def why_not_traced(folder: Path) -> str | None:
    """Return why nothing can be traced on this machine, if nothing can."""
    if shutil.which("strace") is None:
        return "strace is not installed"
    command = traced(["true"], folder / "nothing")
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return f"strace cannot trace here: {done.stderr.strip()}" if done.returncode else None


def descendants(ancestor: int) -> list[int]:
    """Return the ids of all processes below one, the oldest first."""
    parents = dict(_parents())
    found = [ancestor]
    for one in found:
        found += sorted(child for child, parent in parents.items() if parent == one)
    return found[1:]


def _parents() -> Iterator[tuple[int, int]]:
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            try:
                stat = (folder / "stat").read_text(errors="replace")
            except OSError:
                continue  # it has ended meanwhile
            yield int(folder.name), int(stat.rpartition(")")[2].split()[1])


@dataclass(frozen=True, slots=True)
class _Call:
    process: str
    name: str
    arguments: str
    result: str | None
    """None while it is not known: it has only begun."""
    opened: str | None
    """Path of the descriptor that is the result."""

    @property
    def was_killed(self) -> bool:
        """Whether nobody knows if it was carried out."""
        return self.result == "?"

    @property
    def descriptor(self) -> str | None:
        """Path of the file that the first argument has open, if it has a name."""
        found = _DESCRIPTOR.match(self.arguments)
        return None if found is None or found[2] else found[1]

    def names(self) -> list[str]:
        return [os.path.join(folder, name) for folder, name in _NAME.findall(self.arguments)]

    def number(self, place: int) -> int:
        return int(self.arguments.split(", ")[place])


@dataclass(eq=False, slots=True)
class _File:
    size: int = 0
    kept_size: int = 0
    """At its last sync."""
    position: int = 0
    """Where the next `write` goes."""
    appends: bool = False
    unsynced: list[tuple[int, int, int]] = field(default_factory=list)
    """When each was written, its start and its end."""

    def write(self, start: int, count: int, when: int) -> None:
        self.unsynced.append((when, min(start, self.size), start + count))
        self.size = max(self.size, start + count)

    def resize(self, size: int, when: int) -> None:
        if size > self.size:
            self.write(self.size, size - self.size, when)
        self.size, self.kept_size = size, min(size, self.kept_size)


@dataclass(eq=False, slots=True)
class _Folder:
    entries: dict[str, _File | _Folder] = field(default_factory=dict)
    kept: dict[str, _File | _Folder] = field(default_factory=dict)
    """At its last sync."""


_Node = _File | _Folder


class Disk:
    """What of a folder is on the disk for good."""

    def __init__(self, root: Path, *, dropped: Iterable[str] = ()) -> None:
        """Look at a folder before anything is traced.

        Args:
            root: its real path.
            dropped: patterns of names, below which nothing is followed and nothing is left.
        """
        assert root == root.resolve(), "traces have real paths"
        self._root = root
        self._dropped = tuple(dropped)
        self._tree = self._scan(root)
        self._clock = itertools.count()
        self._syncing: dict[str, tuple[int, int, dict[str, _Node]]] = {}

    def replay(self, trace: Path) -> None:
        """Follow what was done, up to the end, when everything was killed."""
        with trace.open(errors="replace") as lines:
            for call in _calls(lines, str(self._root)):
                if call.result is None:
                    self._begin_sync(call)
                elif not call.result.startswith("-"):
                    self._apply(call)

    def differences(self) -> list[str]:
        """Return what the replay has not as it is: something was done that it does not know."""
        there = dict(_walk(self._scan(self._root), self._root))
        known = dict(_walk(self._tree, self._root))
        found = [f"{path}: only on the disk" for path in there.keys() - known.keys()]
        found += [f"{path}: not on the disk" for path in known.keys() - there.keys()]
        for path in there.keys() & known.keys():
            one, other = there[path], known[path]
            if isinstance(one, _File) and isinstance(other, _File) and one.size != other.size:
                found.append(f"{path}: of {one.size} bytes, not {other.size}")
        return sorted(found)

    def leave(self, target: Path, chance: random.Random) -> None:
        """Write what is left; of what is lost, chance decides what is there in its place.

        Args:
            target: a folder to make.
            chance: whether what was written last is missing, zeros, or noise.
        """
        places = {id(node): path for path, node in _walk(self._tree, self._root)}
        self._leave(self._tree, target, places | {id(self._tree): self._root}, chance)

    def _leave(
        self, folder: _Folder, target: Path, places: dict[int, Path], chance: random.Random
    ) -> None:
        target.mkdir()
        for name, node in sorted(folder.kept.items()):
            if isinstance(node, _Folder):
                self._leave(node, target / name, places, chance)
            elif id(node) in places:
                (target / name).write_bytes(_content(places[id(node)], node, chance))
                shutil.copystat(places[id(node)], target / name)
        if id(folder) in places:
            shutil.copystat(places[id(folder)], target)

    def _scan(self, path: Path) -> _Folder:
        found: dict[str, _Node] = {}
        for each in os.scandir(path):
            if self._is_dropped(each.name):
                continue
            if each.is_dir(follow_symlinks=False):
                found[each.name] = self._scan(path / each.name)
            else:
                size = each.stat(follow_symlinks=False).st_size
                found[each.name] = _File(size, size)
        return _Folder(found, dict(found))

    def _is_dropped(self, name: str) -> bool:
        return any(fnmatch(name, pattern) for pattern in self._dropped)

    def _parent(self, path: str) -> tuple[_Folder, str] | None:
        """Return the folder and the name of a path; nothing if it is not followed."""
        try:
            *folders, name = Path(path).relative_to(self._root).parts
        except ValueError:
            return None
        if any(self._is_dropped(part) for part in (*folders, name)):
            return None
        node: _Node | None = self._tree
        for part in folders:
            node = node.entries.get(part) if isinstance(node, _Folder) else None
        return (node, name) if isinstance(node, _Folder) else None

    def _node(self, path: str | None) -> _Node | None:
        if path is None or path == str(self._root):
            return None if path is None else self._tree
        found = self._parent(path)
        return found and found[0].entries.get(found[1])

    def _begin_sync(self, call: _Call) -> None:
        node = self._node(call.descriptor) if call.name in _SYNCS else None
        if node is None:
            return
        size, names = (node.size, {}) if isinstance(node, _File) else (0, dict(node.entries))
        self._syncing[call.process] = (next(self._clock), size, names)

    def _end_sync(self, call: _Call) -> None:
        node, begun = self._node(call.descriptor), self._syncing.pop(call.process, None)
        if node is None or begun is None or call.was_killed:
            return
        # What was done since it began may not be covered.
        when, size, names = begun
        if isinstance(node, _Folder):
            node.kept = {name: names[name] for name in names if name in node.entries}
        else:
            node.kept_size = min(size, node.size)
            node.unsynced = [each for each in node.unsynced if each[0] > when]

    def _apply(self, call: _Call) -> None:
        if call.name in _SYNCS:
            self._end_sync(call)
        elif call.name in ("open", "openat", "creat"):
            self._open(call)
        elif call.name in (*_WRITES, "lseek", "ftruncate", "truncate", "fallocate"):
            path = call.names()[0] if call.name == "truncate" else call.descriptor
            node = self._node(path)
            if isinstance(node, _File) and path is not None:
                self._change(node, call, Path(path))
        else:
            self._name(call)

    def _open(self, call: _Call) -> None:
        [path] = call.names()[:1] if call.was_killed else [call.opened or ""]
        found = self._parent(path)
        flags = call.arguments
        if found is None or not ("O_WRONLY" in flags or "O_RDWR" in flags or call.name == "creat"):
            return
        folder, name = found
        if name not in folder.entries and (not call.was_killed or os.path.lexists(path)):
            folder.entries[name] = _File()
        node = folder.entries.get(name)
        if isinstance(node, _File):
            node.position, node.appends = 0, "O_APPEND" in flags
            if "O_TRUNC" in flags or call.name == "creat":
                node.resize(0, next(self._clock))

    def _change(self, node: _File, call: _Call, path: Path) -> None:
        when = next(self._clock)
        if call.name == "lseek":
            # Asking where one is moves nothing, and may be done by a reader.
            if not call.arguments.endswith(", 0, SEEK_CUR") and not call.was_killed:
                node.position = int(call.result or 0)
        elif call.name in ("truncate", "ftruncate"):
            node.resize(path.stat().st_size if call.was_killed else call.number(1), when)
        elif call.name == "fallocate":
            node.write(call.number(2), call.number(3), when)
        else:
            self._write(node, call, path, when)

    def _write(self, node: _File, call: _Call, path: Path, when: int) -> None:
        has_place = call.name.startswith("pwrite")
        here = node.size if node.appends else node.position
        start = call.number(-1) if has_place else here
        if call.was_killed:
            count = max(0, path.stat().st_size - start)
            if call.name in ("write", "pwrite64"):
                count = min(count, call.number(2))
        else:
            count = int(call.result or 0)
        node.write(start, count, when)
        if not has_place:
            node.position = start + count

    def _name(self, call: _Call) -> None:
        paths = call.names()
        source, target = paths[0], paths[-1]
        if call.name.startswith(("unlink", "rmdir")):
            if not call.was_killed or not os.path.lexists(source):
                self._take(source, for_good=True)
        elif call.was_killed and not os.path.lexists(target):
            return
        elif call.name.startswith("mkdir"):
            self._give(target, _Folder())
        elif call.name.startswith("symlink"):
            self._give(target, _File())
        elif call.name.startswith("link"):
            self._give(target, self._node(source))
        elif not call.was_killed or not os.path.lexists(source):
            self._give(target, self._take(source, for_good=False))

    def _take(self, path: str, *, for_good: bool) -> _Node | None:
        found = self._parent(path)
        if found is None:
            return None
        folder, name = found
        if for_good:
            folder.kept.pop(name, None)
        return folder.entries.pop(name, None)

    def _give(self, path: str, node: _Node | None) -> None:
        found = self._parent(path)
        if found is None:
            return
        folder, name = found
        # What comes from outside of what is followed is taken to be nothing but a name.
        folder.entries[name] = node or _File()
        if name in folder.kept:
            folder.kept[name] = folder.entries[name]


def _calls(lines: Iterable[str], root: str) -> Iterator[_Call]:
    """Read a trace: each call of interest when it begins, and again when it has ended."""
    begun: dict[str, str] = {}
    for line in lines:
        process, _, text = line.strip().partition(" ")
        text = text.strip()
        if text.startswith("<... "):
            if process not in begun:
                continue
            whole = begun.pop(process) + text.partition(" resumed>")[2]
        elif root not in text:
            continue
        else:
            name, _, arguments = text.partition("(")
            yield _Call(process, name, arguments, None, None)
            if text.endswith(_UNFINISHED):
                begun[process] = text.removesuffix(_UNFINISHED)
                continue
            whole = text.replace(_UNFINISHED, "")
        if root in whole:
            yield _ended(process, whole)
    for process, text in begun.items():
        yield _ended(process, f"{text}) = ?")


def _ended(process: str, text: str) -> _Call:
    found = _WHOLE.match(text)
    assert found is not None, text
    name, arguments, result, opened, is_deleted = found.groups()
    return _Call(process, name, arguments, result, None if is_deleted else opened)


def _walk(folder: _Folder, path: Path) -> Iterator[tuple[Path, _Node]]:
    for name, node in folder.entries.items():
        yield path / name, node
        if isinstance(node, _Folder):
            yield from _walk(node, path / name)


def _content(path: Path, file: _File, chance: random.Random) -> bytes:
    """Return a file's content with what was synced as it is, and all else lost."""
    content = bytearray(path.read_bytes())
    for _, start, end in file.unsynced:
        length = max(0, min(end, len(content)) - start)
        content[start : start + length] = chance.choice((bytes, chance.randbytes))(length)
    return bytes(content[: file.kept_size] if chance.random() < 0.5 else content)
