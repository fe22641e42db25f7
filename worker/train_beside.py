"""`python -m worker.train_beside MEETING RANK DEVICE...`: does its share of another's training."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.distributed as dist

from momentum_core.refinement import Checkpoints
from worker.contract.settings import Settings
from worker.names import register_architectures
from worker.training_group import CALL_FILE, meet, ready_file


def main(meeting: Path, rank: int, devices: tuple[torch.device, ...]) -> None:
    """Make the call that the first process left, together with all others.

    Args:
        meeting: the folder that it lies in.
        rank: which of them this is.
        devices: one for each.
    """
    register_architectures(Settings())
    # Our own, and on the first one's device.
    call = torch.load(meeting / CALL_FILE, map_location="cpu", weights_only=False)
    call.to(devices[rank])
    ready_file(meeting, rank).touch()
    meet(meeting, rank, devices)
    # The first process reads the training's state, and writes it.
    call.run(Checkpoints(meeting / "unused"))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), tuple(map(torch.device, sys.argv[3:])))
