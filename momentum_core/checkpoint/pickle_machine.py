"""Interpreter of the few pickle instructions that `torch.save` writes. It can build, never call.

Python's unpickler calls whatever function a file names. This one has a list of values, a memo and
containers; a name stays a name (`Global`), and `pickle_calls` says what a construction becomes.
"""

from __future__ import annotations

import pickletools
import struct
from collections.abc import Callable

from momentum_core.checkpoint.byte_source import ByteSource
from momentum_core.checkpoint.limits import Limits
from momentum_core.checkpoint.pickle_calls import Calls, mapping_key
from momentum_core.checkpoint.pickle_values import Inert, OrderedMapping, StorageRef
from momentum_core.checkpoint.refusal import SAVE_AGAIN, refuse

MAX_TEXT_BYTES = 4096
MAX_INTEGER_BYTES = 32
_WINDOW_BYTES = 1 << 18
_KNOWN_OPCODES = {opcode.code.encode("latin-1")[0]: opcode.name for opcode in pickletools.opcodes}

PersistentLoad = Callable[[tuple[object, ...]], StorageRef]
_Step = Callable[["PickleMachine"], None]


class PickleMachine:
    """Reads the pickles that follow one another in a stretch of a file.

    Args:
        source: the file.
        start: position of the first pickle, in bytes.
        end: position behind the last byte that may belong to a pickle.
        limits: bounds on opcodes and bytes, over all pickles together.
    """

    def __init__(self, source: ByteSource, start: int, end: int, limits: Limits) -> None:
        self._source = source
        self._end = end
        self._limits = limits
        self._calls = Calls(limits)
        self._buffer = b""
        self._base = start
        self._at = 0
        self._first = start
        self._num_steps = 0
        self._persistent_load: PersistentLoad | None = None
        self._stack: list[object] = []
        self._marks: list[list[object]] = []
        self._memo: dict[int, object] = {}

    @property
    def position(self) -> int:
        """Position in the file behind the last pickle that was read."""
        return self._base + self._at

    @property
    def all_inside(self) -> bool:
        """Whether every tensor that was described lies in its storage."""
        return self._calls.all_inside

    def load(self, persistent_load: PersistentLoad | None = None) -> object:
        """Read the next pickle and return its value.

        Args:
            persistent_load: makes a storage of a persistent id; without it ids are refused.

        Raises:
            CheckpointError: `unsafe_pickle`, `malformed_file`, `truncated_file`, `too_complex`, or
                a code that a tensor earned.
        """
        self._persistent_load = persistent_load
        self._stack, self._marks, self._memo = [], [], {}
        while True:
            # The loop of a million turns: `_take` and `_charge` are spelt out here.
            at = self._at
            if at == len(self._buffer):
                self._refill(1)
                at = 0
            opcode = self._buffer[at]
            self._at = at + 1
            self._num_steps += 1
            if self._num_steps > self._limits.max_pickle_opcodes:
                self._charge(0)
            if opcode == _STOP:
                return self._pop()
            step = _STEPS.get(opcode)
            if step is None:
                raise _unknown(opcode)
            step(self)

    def _take(self, num_bytes: int) -> bytes:
        at = self._at
        if at + num_bytes > len(self._buffer):
            self._refill(num_bytes)
            at = 0
        self._at = at + num_bytes
        return self._buffer[at : self._at]

    def _refill(self, num_bytes: int) -> None:
        position = self._base + self._at
        available = self._end - position
        if num_bytes > available:
            raise refuse(
                "truncated_file",
                "the description of the weights ends in the middle; the file was cut off on its "
                "way: send it again",
            )
        if position + num_bytes - self._first > self._limits.max_pickle_bytes:
            raise refuse(
                "too_complex",
                f"the description of the weights is longer than {self._limits.max_pickle_bytes} "
                f"bytes, the limit; {SAVE_AGAIN}",
            )
        window = min(available, max(num_bytes, _WINDOW_BYTES))
        self._buffer = self._source.read_at(position, window)
        self._base, self._at = position, 0

    def _charge(self, num_steps: int) -> None:
        self._num_steps += num_steps
        if self._num_steps > self._limits.max_pickle_opcodes:
            raise refuse(
                "too_complex",
                f"the description of the weights has more than {self._limits.max_pickle_opcodes} "
                f"instructions, the limit; {SAVE_AGAIN}",
            )

    def _line(self) -> str:
        """Read up to a newline: a module or attribute name, always short."""
        line = bytearray()
        while True:
            byte = self._take(1)
            if byte == b"\n":
                return line.decode("ascii", "backslashreplace")
            line += byte
            if len(line) > MAX_TEXT_BYTES:
                raise refuse("malformed_file", "a name in the file has no end")

    def _pop(self) -> object:
        if not self._stack:
            raise _inconsistent()
        return self._stack.pop()

    def _top(self) -> object:
        if not self._stack:
            raise _inconsistent()
        return self._stack[-1]

    def _pop_mark(self) -> list[object]:
        if not self._marks:
            raise _inconsistent()
        items = self._stack
        self._stack = self._marks.pop()
        return items

    def _push(self, value: object) -> None:
        self._stack.append(value)

    def _push_text(self, num_bytes: int) -> None:
        if num_bytes <= MAX_TEXT_BYTES:
            try:
                self._push(self._take(num_bytes).decode("utf-8"))
            except UnicodeDecodeError:
                raise refuse("malformed_file", "a text in the file is not UTF-8") from None
            return
        # Longer ones are notes such as a training log: stepped over, not kept.
        while num_bytes:
            num_bytes -= len(self._take(min(num_bytes, _WINDOW_BYTES)))
        self._push(Inert("long text"))

    def _push_integer(self, num_bytes: int) -> None:
        if num_bytes > MAX_INTEGER_BYTES:
            raise refuse("malformed_file", f"a number in the file has {num_bytes} bytes")
        self._push(int.from_bytes(self._take(num_bytes), "little", signed=True))

    def _extend(self, items: list[object]) -> None:
        target = self._top()
        if type(target) is list:
            target.extend(items)
        elif not isinstance(target, Inert):
            raise _inconsistent()

    def _set_items(self, items: list[object]) -> None:
        target = self._top()
        if len(items) % 2:
            raise _inconsistent()
        if isinstance(target, dict):
            for key, value in zip(items[::2], items[1::2], strict=True):
                target[mapping_key(key)] = value
        elif not isinstance(target, Inert):
            raise _inconsistent()

    def _proto(self) -> None:
        version = self._take(1)[0]
        if version != 2:
            raise refuse(
                "unsafe_pickle",
                f"the file uses pickle protocol {version}; only 2, the default of torch.save, is "
                "read: save it again without pickle_protocol",
            )

    def _global(self) -> None:
        module = self._line()
        self._push(self._calls.resolve(module, self._line()))

    def _reduce(self) -> None:
        arguments = self._pop()
        self._charge(self._calls.num_items(arguments))
        self._push(self._calls.call(self._pop(), arguments))

    def _build(self) -> None:
        self._pop()
        if not isinstance(self._top(), Inert | OrderedMapping):
            raise refuse("unsafe_pickle", f"the file sets the state of an object; {SAVE_AGAIN}")

    def _persistent(self) -> None:
        identifier = self._pop()
        if self._persistent_load is None or not isinstance(identifier, tuple):
            raise refuse("malformed_file", "the file refers to a storage where none can be")
        self._push(self._persistent_load(identifier))

    def _put(self, index: int) -> None:
        self._memo[index] = self._top()

    def _put_short(self) -> None:
        self._memo[self._take(1)[0]] = self._top()

    def _get_short(self) -> None:
        self._get(self._take(1)[0])

    def _get(self, index: int) -> None:
        if index not in self._memo:
            raise _inconsistent()
        self._push(self._memo[index])

    def _tuple(self, num_items: int) -> None:
        if len(self._stack) < num_items:
            raise _inconsistent()
        items = tuple(self._stack[-num_items:])
        del self._stack[-num_items:]
        self._push(items)

    def _mark(self) -> None:
        self._marks.append(self._stack)
        self._stack = []

    def _unsigned(self, num_bytes: int) -> int:
        return int.from_bytes(self._take(num_bytes), "little")

    def _signed(self, num_bytes: int) -> int:
        return int.from_bytes(self._take(num_bytes), "little", signed=True)


def _set_item(machine: PickleMachine) -> None:
    value, key = machine._pop(), machine._pop()
    machine._set_items([key, value])


def _inconsistent() -> Exception:
    return refuse(
        "malformed_file", f"the description of the weights contradicts itself; {SAVE_AGAIN}"
    )


def _unknown(opcode: int) -> Exception:
    name = _KNOWN_OPCODES.get(opcode)
    if name is None:
        return refuse("malformed_file", f"byte {opcode:#04x} in the description is no instruction")
    return refuse(
        "unsafe_pickle",
        f"the file uses the pickle instruction {name}, which torch.save does not write for "
        f"weights; {SAVE_AGAIN}",
    )


_STOP = ord(".")
# Reading a table of functions is safer than dispatch by name: what is not here does not exist.
_STEPS: dict[int, _Step] = {
    0x80: PickleMachine._proto,
    ord("("): PickleMachine._mark,
    ord("N"): lambda machine: machine._push(None),
    0x88: lambda machine: machine._push(True),
    0x89: lambda machine: machine._push(False),
    ord(")"): lambda machine: machine._push(()),
    ord("]"): lambda machine: machine._push([]),
    ord("}"): lambda machine: machine._push({}),
    ord("J"): lambda machine: machine._push(machine._signed(4)),
    ord("K"): lambda machine: machine._push(machine._unsigned(1)),
    ord("M"): lambda machine: machine._push(machine._unsigned(2)),
    0x8A: lambda machine: machine._push_integer(machine._unsigned(1)),
    ord("G"): lambda machine: machine._push(struct.unpack(">d", machine._take(8))[0]),
    ord("X"): lambda machine: machine._push_text(machine._unsigned(4)),
    ord("U"): lambda machine: machine._push_text(machine._unsigned(1)),
    ord("T"): lambda machine: machine._push_text(machine._unsigned(4)),
    ord("t"): lambda machine: machine._push(tuple(machine._pop_mark())),
    0x85: lambda machine: machine._tuple(1),
    0x86: lambda machine: machine._tuple(2),
    0x87: lambda machine: machine._tuple(3),
    ord("a"): lambda machine: machine._extend([machine._pop()]),
    ord("e"): lambda machine: machine._extend(machine._pop_mark()),
    ord("s"): _set_item,
    ord("u"): lambda machine: machine._set_items(machine._pop_mark()),
    ord("q"): PickleMachine._put_short,
    ord("r"): lambda machine: machine._put(machine._unsigned(4)),
    ord("h"): PickleMachine._get_short,
    ord("j"): lambda machine: machine._get(machine._unsigned(4)),
    ord("c"): PickleMachine._global,
    ord("R"): PickleMachine._reduce,
    0x81: PickleMachine._reduce,
    ord("b"): PickleMachine._build,
    ord("Q"): PickleMachine._persistent,
}
