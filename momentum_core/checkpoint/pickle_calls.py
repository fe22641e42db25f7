"""The closed list of names a checkpoint may refer to, and what each becomes; none is called."""

from __future__ import annotations

from collections.abc import Callable

from momentum_core.checkpoint.limits import Limits
from momentum_core.checkpoint.pickle_values import (
    STORAGE_PATHS,
    Global,
    Inert,
    OrderedMapping,
    StorageRef,
    TensorRef,
)
from momentum_core.checkpoint.refusal import SAVE_AGAIN, refuse, shown
from momentum_core.checkpoint.tensor import span

# Beyond this a number is not a size of anything: it was made to overflow somebody's arithmetic.
MAX_COUNT = 1 << 60

_DTYPE_NAMES = (
    *("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8"),
    *("bool", "uint16", "uint32", "uint64", "complex64", "complex128", "complex32"),
    *("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "qint8", "quint8"),
)

INERT_PATHS = frozenset(
    {
        *(f"torch.{name}" for name in _DTYPE_NAMES),
        *("torch.device", "torch.Tensor", "torch.nn.parameter.Parameter", "torch.strided"),
        *("torch.serialization._get_layout", "torch.preserve_format", "torch.contiguous_format"),
        *("argparse.Namespace", "types.SimpleNamespace", "_codecs.encode"),
        *("collections.Counter", "collections.defaultdict", "collections.deque"),
        *("datetime.datetime", "datetime.date", "datetime.timedelta", "decimal.Decimal"),
        *("pathlib.PosixPath", "pathlib.PurePosixPath", "pathlib.WindowsPath", "pathlib.Path"),
        *("numpy.dtype", "numpy.ndarray", "numpy.core.multiarray.scalar"),
        *("numpy._core.multiarray.scalar", "numpy.core.multiarray._reconstruct"),
        *("numpy._core.multiarray._reconstruct", "numpy.float64", "numpy.float32"),
        *("numpy.int64", "numpy.int32", "numpy.bool_", "numpy._core.numeric._frombuffer"),
        *("numpy.core.numeric._frombuffer", "numpy.random.__RandomState_ctor"),
        *(
            f"{module}.{name}"
            for module in ("builtins", "__builtin__")
            for name in ("set", "frozenset", "list", "dict", "tuple", "int", "long", "float")
        ),
        *("builtins.complex", "builtins.bool", "builtins.str", "builtins.bytes", "builtins.slice"),
        "pytorch_lightning.utilities.parsing.AttributeDict",
        "lightning.fabric.utilities.data.AttributeDict",
        "lightning_fabric.utilities.data.AttributeDict",
    }
)
"""Names met beside honest weights. They stand for values that are dropped, never built."""

_MODEL_MODULES = ("torch.nn.", "torchvision.", "timm.", "transformers.", "__main__.", "models.")


class Calls:
    """Resolves names and constructions of one pickle.

    Args:
        limits: bounds on tensors and dimensions; the count of tensors runs over the whole file.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._num_tensors = 0
        self.all_inside = True
        """Whether every tensor lies in its storage, also those that no name keeps."""
        self._table: dict[str, Callable[[tuple[object, ...]], object]] = {
            "collections.OrderedDict": _ordered_mapping,
            "torch._utils._rebuild_tensor": self._tensor,
            "torch._utils._rebuild_tensor_v2": self._tensor_v2,
            "torch._utils._rebuild_tensor_v3": self._tensor_v3,
            "torch._utils._rebuild_parameter": _parameter,
            "torch._utils._rebuild_parameter_with_state": _parameter,
            "torch._tensor._rebuild_from_type_v2": self._from_type,
            "torch.Size": self._size,
        }

    def resolve(self, module: str, name: str) -> Global:
        """Return the inert name for a GLOBAL instruction.

        Raises:
            CheckpointError: `unsafe_pickle`, when the name is not on the list.
        """
        path = f"{module}.{name}"
        if path in self._table or path in INERT_PATHS or path in STORAGE_PATHS:
            return Global(path)
        if path.startswith(_MODEL_MODULES):
            raise refuse(
                "unsafe_pickle",
                f"the file holds a pickled model ({shown(path)}), and opening it would run code; "
                "save the state_dict instead: torch.save(model.state_dict(), path)",
            )
        raise refuse(
            "unsafe_pickle",
            f"the file refers to {shown(path)}, which is no part of weights and could run code; "
            f"nothing was run: {SAVE_AGAIN}",
        )

    def call(self, callee: object, arguments: object) -> object:
        """Return what stands for `callee(*arguments)`, for REDUCE and NEWOBJ.

        Raises:
            CheckpointError: `unsafe_pickle` if it is not on the list, or another code if the
                arguments describe no tensor that can exist.
        """
        if not isinstance(callee, Global) or not isinstance(arguments, tuple):
            raise refuse("unsafe_pickle", f"the file calls a value as a function; {SAVE_AGAIN}")
        construct = self._table.get(callee.path)
        if construct is not None:
            return construct(arguments)
        if callee.path in INERT_PATHS and callee.path != "torch.Tensor":
            return Inert(callee.path)
        raise refuse("unsafe_pickle", f"the file calls {shown(callee.path)}; {SAVE_AGAIN}")

    def num_items(self, arguments: object) -> int:
        """Elements that a construction copies, so that copying can be charged like opcodes."""
        if isinstance(arguments, tuple):
            return sum(len(item) for item in arguments[:2] if isinstance(item, list | tuple | dict))
        return 0

    def _tensor(self, arguments: tuple[object, ...], dtype: str | None = None) -> TensorRef:
        if len(arguments) < 4:
            raise refuse("malformed_file", "a tensor lacks its shape or its strides")
        storage, offset, size, stride = arguments[:4]
        self._num_tensors += 1
        if self._num_tensors > self._limits.max_tensors:
            raise refuse(
                "too_many_tensors",
                f"the file holds more than {self._limits.max_tensors} tensors, the limit",
            )
        if not isinstance(storage, StorageRef):
            raise refuse("malformed_file", "a tensor has no storage")
        shape, steps = self._counts(size, "shape"), self._counts(stride, "strides")
        if len(shape) != len(steps):
            raise refuse(
                "malformed_file",
                f"a tensor has {len(shape)} dimensions and {len(steps)} strides",
            )
        first = count(offset, "storage offset") + storage.first
        if first + span(shape, steps) > storage.num_elements:
            self.all_inside = False
        return TensorRef(storage, dtype or storage.dtype, first, shape, steps)

    def _tensor_v2(self, arguments: tuple[object, ...]) -> TensorRef:
        if len(arguments) not in (6, 7) or type(arguments[4]) is not bool:
            raise refuse("malformed_file", "a tensor has the wrong properties")
        if len(arguments) == 7 and arguments[6]:
            raise refuse(
                "unsupported_dtype",
                "a tensor is a lazy conjugate or negative; "
                "call .resolve_conj().resolve_neg() before saving",
            )
        return self._tensor(arguments)

    def _tensor_v3(self, arguments: tuple[object, ...]) -> TensorRef:
        if len(arguments) not in (7, 8) or not isinstance(arguments[6], Global):
            raise refuse("malformed_file", "a tensor has the wrong number of properties")
        # torch writes this form only for types that are not read; the name serves the message.
        return self._tensor(arguments, dtype=arguments[6].path.removeprefix("torch."))

    def _from_type(self, arguments: tuple[object, ...]) -> object:
        plain = (Global("torch.Tensor"), Global("torch.nn.parameter.Parameter"))
        if len(arguments) != 4 or arguments[1] not in plain:
            raise refuse(
                "unsafe_pickle", f"the file holds a class derived from Tensor; {SAVE_AGAIN}"
            )
        if arguments[0] == Global("torch._tensor._rebuild_from_type_v2"):
            raise refuse("malformed_file", "a tensor is wrapped twice")
        made = self.call(arguments[0], arguments[2])
        if not isinstance(made, TensorRef):
            raise refuse("malformed_file", "a tensor is rebuilt from something else")
        return made

    def _size(self, arguments: tuple[object, ...]) -> tuple[int, ...]:
        return self._counts(arguments[0] if len(arguments) == 1 else None, "shape")

    def _counts(self, value: object, what: str) -> tuple[int, ...]:
        if not isinstance(value, tuple | list):
            raise refuse("malformed_file", f"the {what} of a tensor is not a list of numbers")
        if len(value) > self._limits.max_dimensions:
            raise refuse(
                "malformed_file",
                f"a tensor has {len(value)} dimensions; the limit is {self._limits.max_dimensions}",
            )
        return tuple(count(item, what) for item in value)


def count(value: object, what: str) -> int:
    """Return a size, length or offset that may exist.

    Raises:
        CheckpointError: `malformed_file`, when it is no whole number from 0 to 2**60.
    """
    if type(value) is not int or not 0 <= value <= MAX_COUNT:
        given = value if type(value) is int and abs(value) < 1 << 128 else shown(value)
        raise refuse("malformed_file", f"{what} {given} of a tensor is not possible")
    return value


def _ordered_mapping(arguments: tuple[object, ...]) -> OrderedMapping:
    mapping = OrderedMapping()
    if not arguments:
        return mapping
    # Python 2 wrote the pairs as an argument.
    if len(arguments) != 1 or not isinstance(arguments[0], list):
        raise refuse("malformed_file", "an OrderedDict is made from something odd")
    for pair in arguments[0]:
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise refuse("malformed_file", "an OrderedDict is made from something odd")
        mapping[mapping_key(pair[0])] = pair[1]
    return mapping


def mapping_key(value: object) -> object:
    """Return a key that is safe to hash: a scalar, or an inert stand-in for what Python would hash.

    Raises:
        CheckpointError: `malformed_file`, for a key that no mapping can have.
    """
    if value is None or type(value) in (str, int, float, bool, bytes):
        return value
    items = value if isinstance(value, tuple) else (value,)
    if any(isinstance(item, list | dict) for item in items):
        raise refuse("malformed_file", "a mapping in the file has a list or a mapping as a key")
    return Inert("key")


def _parameter(arguments: tuple[object, ...]) -> TensorRef:
    if len(arguments) < 3 or not isinstance(arguments[0], TensorRef):
        raise refuse("malformed_file", "a parameter has no tensor")
    return arguments[0]
