"""A refinement in a process of its own, which may be killed; prints each step and a digest.

python -m tests.momentum_core.refinement.killed_training FOLDER STEPS
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import torch

from momentum_core.config import RefinementConfig
from momentum_core.refinement import Checkpoints, refine
from tests.momentum_core.refinement.conftest import make_digits


def say(*words: object) -> None:
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


def main(folder: str, steps: str) -> None:
    torch.set_num_threads(1)
    digits = make_digits()
    config = RefinementConfig(
        max_steps=int(steps),
        batch_size=32,
        learning_rate=0.02,
        evaluation_interval=7,
        goal=None,
        calibrate=False,
    )
    refined = refine(
        digits.rough(),
        digits.network,
        digits.images(),
        digits.preprocessing,
        config,
        checkpoints=Checkpoints(Path(folder), every_seconds=0.1),
        on_step=lambda progress: say(progress.step),
    )
    digest = hashlib.sha256()
    for name, tensor in refined.model.state_dict().items():
        digest.update(name.encode() + tensor.numpy().tobytes())
    say("resumed", *refined.result.resumed_at)
    say("digest", digest.hexdigest())


if __name__ == "__main__":
    main(*sys.argv[1:])
