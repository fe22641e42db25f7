"""What a training step holds in memory, counted tensor by tensor.

Every tensor that an operator returns is counted from then until its storage is freed. What kernels
allocate and free within one operator is not seen. The peak is above parameters, gradients, buffers
and input, all of which exist before the step; so the figures of two models can be compared.
"""

from __future__ import annotations

import statistics
import time
import weakref
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


@dataclass(frozen=True, kw_only=True, slots=True)
class StepMeasurement:
    """Bytes and seconds of one training step (forward and backward pass)."""

    parameter_bytes: int
    gradient_bytes: int
    buffer_bytes: int
    input_bytes: int
    activation_bytes: int
    """Held at the end of the forward pass for the backward pass."""

    peak_bytes: int
    """Most that was ever held at once, above parameters, gradients, buffers and input."""

    seconds: float
    """Median over the repetitions, measured without counting."""


class MemoryTracker(TorchDispatchMode):
    """Counts the bytes of storages that operators make while the tracker is active.

    Attributes:
        current_bytes: bytes alive now.
        peak_bytes: most bytes that were alive at once.
    """

    def __init__(self, known: Iterable[Tensor] = ()) -> None:
        """Start at zero.

        Args:
            known: tensors that exist already and are not counted.
        """
        super().__init__()  # type: ignore[no-untyped-call]
        self.current_bytes = 0
        self.peak_bytes = 0
        self._sizes: dict[int, int] = {}
        self._watches: dict[int, weakref.ref[Any]] = {}
        for tensor in known:
            self._watch(tensor, counted=False)

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run the operator and count the storages of its results."""
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._watch(leaf, counted=True)
        return result

    def __enter__(self) -> Self:
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        super().__exit__(kind, value, trace)  # type: ignore[no-untyped-call]

    def _watch(self, tensor: Tensor, *, counted: bool) -> None:
        storage = tensor.untyped_storage()
        key = id(storage)
        size = storage.nbytes() if counted else 0
        if key in self._watches:
            # An operator with `out=` may have resized it.
            if self._sizes[key]:
                self._add(size - self._sizes[key])
                self._sizes[key] = size
            return
        self._sizes[key] = size
        self._watches[key] = weakref.ref(storage, lambda _: self._forget(key))
        self._add(size)

    def _forget(self, key: int) -> None:
        del self._watches[key]
        self._add(-self._sizes.pop(key))

    def _add(self, size: int) -> None:
        self.current_bytes += size
        self.peak_bytes = max(self.peak_bytes, self.current_bytes)


def measure_training_step(
    model: nn.Module, images: Tensor, labels: Tensor, *, repeats: int = 5
) -> StepMeasurement:
    """Measure a training step of `model`; see `measure_side_by_side`."""
    return measure_side_by_side([model], images, labels, repeats=repeats)[0]


def measure_side_by_side(
    models: Sequence[nn.Module], images: Tensor, labels: Tensor, *, repeats: int = 5
) -> list[StepMeasurement]:
    """Measure a training step of each model: cross-entropy, forward and backward pass.

    The timed steps take turns, so that whatever else the machine does meets all models alike; their
    ratio is worth more than the seconds. Weights, buffers, gradients and training flags are as
    before afterwards.

    Args:
        models: classifiers, on one device.
        images: shape (B, C, H, W), on the models' device.
        labels: class numbers, shape (B,), int64.
        repeats: timed repetitions.

    Raises:
        MomentumError: a model cannot take the images, or cannot be reversed on them.
    """
    with ExitStack() as stack:
        for model in models:
            stack.enter_context(_prepared(model))
            _step(model, images, labels)  # the first step makes what every later one reuses
        rounds = [[_timed_step(model, images, labels) for model in models] for _ in range(repeats)]
        return [
            _measurement(model, images, labels, statistics.median(seconds))
            for model, seconds in zip(models, zip(*rounds, strict=True), strict=True)
        ]


@contextmanager
def _prepared(model: nn.Module) -> Iterator[None]:
    """Give the model gradients to add to, in training mode; put everything back afterwards."""
    was_training = model.training
    parameters = [p for p in model.parameters() if p.requires_grad]
    gradients = [p.grad for p in parameters]
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    random_state = torch.get_rng_state()
    model.train()
    try:
        for parameter in parameters:
            parameter.grad = torch.zeros_like(parameter)
        yield
    finally:
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        with torch.no_grad():
            for name, buffer in model.named_buffers():
                buffer.copy_(buffers[name])
        model.train(was_training)
        torch.set_rng_state(random_state)


def _measurement(
    model: nn.Module, images: Tensor, labels: Tensor, seconds: float
) -> StepMeasurement:
    parameters = [p for p in model.parameters() if p.requires_grad]
    activation_bytes, peak_bytes = _count_step(model, images, labels)
    return StepMeasurement(
        parameter_bytes=_num_bytes(model.parameters()),
        gradient_bytes=_num_bytes(parameters),
        buffer_bytes=_num_bytes(model.buffers()),
        input_bytes=_num_bytes([images, labels]),
        activation_bytes=activation_bytes,
        peak_bytes=peak_bytes,
        seconds=seconds,
    )


def _step(model: nn.Module, images: Tensor, labels: Tensor) -> None:
    F.cross_entropy(model(images), labels).backward()  # type: ignore[no-untyped-call]


def _timed_step(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    _synchronize(images.device)
    start = time.perf_counter()
    _step(model, images, labels)
    _synchronize(images.device)
    return time.perf_counter() - start


def _count_step(model: nn.Module, images: Tensor, labels: Tensor) -> tuple[int, int]:
    """Return the bytes held after the forward pass, and the peak."""
    held = [p.grad for p in model.parameters() if p.grad is not None]
    with MemoryTracker([*model.parameters(), *model.buffers(), *held, images, labels]) as tracker:
        loss = F.cross_entropy(model(images), labels)
        activation_bytes = tracker.current_bytes
        loss.backward()  # type: ignore[no-untyped-call]
    return activation_bytes, tracker.peak_bytes


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _num_bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
