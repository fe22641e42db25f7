"""Several processes that train one model: each takes its share of every batch.

A script that torchrun starts, and that has called `torch.distributed.init_process_group`, calls
`refine` or `finetune` in every process with the same arguments. The first one decides what is
judged, and writes the state; all end with the same weights.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel


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
        """Whether this process judges and writes."""
        return self.rank == 0

    def share(self, num_images: int) -> slice:
        """Return the place of this process's images in a batch; sizes differ by one at most."""
        return slice(
            self.rank * num_images // self.count, (self.rank + 1) * num_images // self.count
        )

    def wrapped(self, model: nn.Module, *, parts_may_rest: bool) -> nn.Module:
        """Return the model as it is called: so that gradients are means over all processes.

        Args:
            model: the same in every process; weights of the first one are copied to the others.
            parts_may_rest: whether parameters may be left out of a step.
        """
        if self.count == 1:
            return model
        device = next(model.parameters()).device
        for tensor in model.state_dict().values():
            dist.broadcast(tensor, src=0)  # statistics too, which stay as they are from now on
        parallel: nn.Module = DistributedDataParallel(
            model,
            device_ids=[device.index] if device.type == "cuda" else None,
            broadcast_buffers=False,
            find_unused_parameters=parts_may_rest,
        )
        return parallel

    def from_first(self, compute: Callable[[], Any]) -> Any:
        """Return what the first process computes, as JSON values; the others wait for it."""
        if self.count == 1:
            return compute()
        device = _device()
        written = json.dumps(compute()).encode() if self.is_first else b""
        length = torch.tensor([len(written)], device=device)
        dist.broadcast(length, src=0)
        text = torch.zeros(int(length), dtype=torch.uint8, device=device)
        if self.is_first:
            text.copy_(torch.frombuffer(bytearray(written), dtype=torch.uint8))
        dist.broadcast(text, src=0)
        return json.loads(text.cpu().numpy().tobytes())

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
