"""Several processes that train one model: each takes its share of every batch.

A script that torchrun starts, and that has called `torch.distributed.init_process_group`, calls
`refine` or `finetune` in every process with the same arguments. The first one decides what is
judged, reads and writes the state; all end with the same weights.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from momentum_core.errors import MomentumError

T = TypeVar("T")

BUCKET_BYTES = 25 << 20


class NotFiniteError(Exception):
    """Loss or gradients are no numbers any more; the weights were not changed."""


@dataclass(frozen=True, slots=True)
class Processes:
    """This process among those that train together."""

    rank: int = 0
    count: int = 1

    @classmethod
    def current(cls) -> Processes:
        """Return where this process stands in the default process group, if there is one."""
        if not dist.is_available() or not dist.is_initialized():
            return cls()
        return cls(dist.get_rank(), dist.get_world_size())

    @property
    def is_first(self) -> bool:
        """Whether this process judges, reads and writes."""
        return self.rank == 0

    def share(self, num_images: int) -> slice:
        """Return the place of this process's images in a batch; sizes differ by one at most."""
        return slice(
            self.rank * num_images // self.count, (self.rank + 1) * num_images // self.count
        )

    def align(self, model: nn.Module) -> None:
        """Copy weights and statistics of the first process's model to the others'."""
        if self.count == 1:
            return
        for tensor in model.state_dict().values():
            dist.broadcast(tensor, src=0)

    def average_gradients(self, model: nn.Module) -> None:
        """Make each gradient the mean over all processes; without one counts as 0.

        Not DistributedDataParallel: it averages while the backward pass goes on, and a process that
        fails in its own would leave the others waiting.
        """
        if self.count == 1:
            return
        learning = [p for p in model.parameters() if p.requires_grad]
        has_gradient = torch.tensor(
            [p.grad is not None for p in learning], dtype=torch.uint8, device=_device()
        )
        dist.all_reduce(has_gradient, dist.ReduceOp.MAX)
        moving = [p for p, has in zip(learning, has_gradient.tolist(), strict=True) if has]
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in moving]
        for bucket in _buckets(gradients):
            flat = torch.cat([gradient.flatten() for gradient in bucket])
            dist.all_reduce(flat)
            pieces = torch.split(flat / self.count, [gradient.numel() for gradient in bucket])
            for gradient, piece in zip(bucket, pieces, strict=True):
                gradient.copy_(piece.view_as(gradient))
        for parameter, gradient in zip(moving, gradients, strict=True):
            parameter.grad = gradient

    def from_first(self, compute: Callable[[], Any]) -> Any:
        """Return what the first process computes, as JSON values; the others wait for it.

        Raises:
            BaseException: where the first one could not, in all of them.
        """
        if self.count == 1:
            return compute()
        told: dict[str, Any] = {}
        if self.is_first:
            try:
                told["value"] = compute()
            except BaseException as error:
                self._broadcast({"error": _to_json(error)})
                raise
        told = self._broadcast(told)
        if "error" in told:
            raise _from_json(told["error"])
        return told["value"]

    def tensors_from_first(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return copies of the first process's tensors; what the others give is not looked at."""
        if self.count == 1:
            return tensors
        described = self._broadcast(
            {name: [list(one.shape), str(one.dtype)] for name, one in tensors.items()}
        )
        found = {}
        for name, (shape, dtype) in described.items():
            if self.is_first:
                sent = tensors[name].to(_device()).contiguous()
            else:
                kind = getattr(torch, dtype.removeprefix("torch."))
                sent = torch.empty(shape, dtype=kind, device=_device())
            dist.broadcast(sent, src=0)
            found[name] = sent.cpu()
        return found

    def together(self, compute: Callable[[], T]) -> T:
        """Return what this process computes, once each of the others has computed its own.

        Where one alone met an error, the others would wait for it later on, and for ever.

        Raises:
            Exception: in all of them, of the same type: what the first of those met that met one.
        """
        if self.count == 1:
            return compute()
        error: Exception | None = None
        try:
            computed = compute()
        except Exception as caught:
            error = caught
        # Its traceback holds this frame, and all that was computed: it must not stay in either.
        try:
            self._raise_if_any(error)
        finally:
            del error
        return computed

    def _raise_if_any(self, error: Exception | None) -> None:
        """Raise the error of the first of the processes that met one."""
        unharmed = self.count
        failing = torch.tensor(unharmed if error is None else self.rank, device=_device())
        dist.all_reduce(failing, dist.ReduceOp.MIN)
        source = int(failing)
        if source == unharmed:
            return
        told = self._broadcast({} if error is None else _to_json(error), source=source)
        try:
            raise error if error is not None and self.rank == source else _from_json(told)
        finally:
            del error

    def _broadcast(self, value: dict[str, Any], *, source: int = 0) -> dict[str, Any]:
        """Return what one process gives, as JSON: it is data, and nothing that could be run."""
        is_source, device = self.rank == source, _device()
        written = json.dumps(value).encode() if is_source else b""
        length = torch.tensor([len(written)], device=device)
        dist.broadcast(length, src=source)
        text = torch.zeros(int(length), dtype=torch.uint8, device=device)
        if is_source:
            text.copy_(torch.frombuffer(bytearray(written), dtype=torch.uint8))
        dist.broadcast(text, src=source)
        read: dict[str, Any] = json.loads(text.cpu().numpy().tobytes())
        return read

    def mean(self, parts: dict[str, float]) -> dict[str, float]:
        """Return the mean of each figure over all processes."""
        if self.count == 1:
            return parts
        values = torch.tensor(list(parts.values()), dtype=torch.float64, device=_device())
        dist.all_reduce(values)
        return dict(zip(parts, (values / self.count).tolist(), strict=True))


def _device() -> torch.device:
    """Return where the backend's tensors must be."""
    return torch.device("cuda" if dist.get_backend() == "nccl" else "cpu")


def _buckets(gradients: list[Tensor]) -> Iterator[list[Tensor]]:
    """Yield them in groups of one type that are sent at once."""
    bucket: list[Tensor] = []
    num_bytes = 0
    for gradient in gradients:
        if bucket and (num_bytes >= BUCKET_BYTES or gradient.dtype != bucket[0].dtype):
            yield bucket
            bucket, num_bytes = [], 0
        bucket.append(gradient)
        num_bytes += gradient.nbytes
    if bucket:
        yield bucket


def _to_json(error: BaseException) -> dict[str, Any]:
    kind = type(error).__name__
    return {"type": kind, "message": str(error), "code": getattr(error, "code", None)}


def _from_json(told: dict[str, Any]) -> Exception:
    """Return another process's error: of its type, if that is one of those that are dealt with."""
    message = told["message"]
    for kind in (torch.OutOfMemoryError, MemoryError, NotFiniteError):
        if told["type"] == kind.__name__:
            return kind(message)
    for own in _kinds_of(MomentumError):
        if told["type"] == own.__name__:
            return own(message, code=told["code"])
    return RuntimeError(f"another process met {told['type']}: {message}")


def _kinds_of(error: type[MomentumError]) -> Iterator[type[MomentumError]]:
    yield error
    for kind in error.__subclasses__():
        yield from _kinds_of(kind)
