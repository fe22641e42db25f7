"""Make the zoo entry that the project ships: `digits_resnet26`, trained on scikit-learn's digits.

Run as `python -m worker.zoo_entries.train_digits`, with the dev extra. It writes the weights and
the data beside itself and prints what `worker/contract/zoo.py` states of them. Another processor
or another version of torch rounds differently, and so gives another digest.
"""

from __future__ import annotations

import hashlib
import math
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import save
from torch import Tensor, nn

from momentum_core.architectures import build
from momentum_core.checkpoint import read_dataset
from momentum_core.config import Preprocessing
from momentum_core.refinement import evaluate, to_input

ARCHITECTURE = "digits_resnet26"
NUM_CLASSES = 10
NUM_TEST = 500
SEED = 0

# Chosen by the accuracy on fifths of the training images that were held back for that; the test
# images had no part in it. Twice the decay is as accurate, but variances come down to near eps.
_EPOCHS = 100
_BATCH_SIZE = 64
_LEARNING_RATE = 0.1
_WEIGHT_DECAY = 1e-3
_WARMUP_STEPS = 40


def main() -> None:
    """Write the data set and the weights, measure the weights once, print what came out."""
    torch.set_num_threads(1)  # the order of sums depends on the number of threads
    folder = Path(__file__).resolve().parent
    write_digits(folder / "digits.npz")
    dataset = read_dataset(folder / "digits.npz")
    preprocessing = preprocessing_of(dataset.x_train)
    assert dataset.y_train is not None, "made above"
    model = train(dataset.x_train, dataset.y_train, preprocessing)
    content = save({name: tensor.contiguous() for name, tensor in model.state_dict().items()})
    digest = hashlib.sha256(content).hexdigest()
    file_name = f"{ARCHITECTURE}-{digest[:8]}.safetensors"
    (folder / file_name).write_bytes(content)
    top1 = evaluate(model, dataset.x_test, dataset.y_test, preprocessing).top1_percent
    sys.stdout.write(
        f"{file_name}\nsha256 {digest}\n"
        f"mean {preprocessing.mean[0]}, std {preprocessing.std[0]}\ntest top-1 {top1:.1f} %\n"
    )


def write_digits(path: Path) -> None:
    """Write scikit-learn's digits as `.npz`, split once into images to train and to test with.

    Each class has the same share of both parts; values 0 to 16 become pixels 0 to 255.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    pixels = (digits.images * 255 / 16).round().astype(np.uint8)[..., None]
    labels = digits.target.astype(np.uint8)
    x_train, x_test, y_train, y_test = train_test_split(
        pixels, labels, test_size=NUM_TEST, stratify=labels, random_state=SEED
    )
    np.savez_compressed(path, x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test)


def preprocessing_of(images: NDArray[np.uint8]) -> Preprocessing:
    """Return mean and standard deviation of the pixels, as they are published: to four digits."""
    shares = images / 255
    return Preprocessing(
        mean=(round(float(shares.mean()), 4),), std=(round(float(shares.std()), 4),)
    )


def train(
    images: NDArray[np.uint8], labels: NDArray[np.int64], preprocessing: Preprocessing
) -> nn.Module:
    """Return the network after the last step, in evaluation mode; no step is picked out.

    Args:
        images: shape (B, 8, 8, 1).
        labels: shape (B,).
        preprocessing: mean and standard deviation of the pixels.
    """
    torch.manual_seed(SEED)
    generator = torch.Generator().manual_seed(SEED)
    pixels, truth = to_input(images, preprocessing), torch.from_numpy(labels)
    black = -preprocessing.mean[0] / preprocessing.std[0]
    model = build(ARCHITECTURE, num_classes=NUM_CLASSES).train()
    optimizer = torch.optim.SGD(
        model.parameters(),
        lr=_LEARNING_RATE,
        momentum=0.9,
        nesterov=True,
        weight_decay=_WEIGHT_DECAY,
    )
    steps_per_epoch = len(images) // _BATCH_SIZE
    for epoch in range(_EPOCHS):
        order = torch.randperm(len(images), generator=generator)
        for index in range(steps_per_epoch):
            step = epoch * steps_per_epoch + index
            for group in optimizer.param_groups:
                group["lr"] = _learning_rate(step, _EPOCHS * steps_per_epoch)
            chosen = order[index * _BATCH_SIZE : (index + 1) * _BATCH_SIZE]
            logits = model(_shifted(pixels[chosen], black, generator))
            optimizer.zero_grad(set_to_none=True)
            F.cross_entropy(logits, truth[chosen]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return model.eval()


def _learning_rate(step: int, num_steps: int) -> float:
    """Return half a cosine from the peak to 0, after a linear rise."""
    rise = min(1.0, (step + 1) / _WARMUP_STEPS)
    return _LEARNING_RATE * rise * 0.5 * (1 + math.cos(math.pi * step / num_steps))


def _shifted(batch: Tensor, black: float, generator: torch.Generator) -> Tensor:
    """Shift each image (B, C, H, W) by up to one pixel in each direction; black comes in."""
    height, width = batch.shape[2:]
    padded = F.pad(batch, (1, 1, 1, 1), value=black)
    offsets = torch.randint(0, 3, (len(batch), 2), generator=generator).tolist()
    return torch.stack(
        [
            image[:, top : top + height, left : left + width]
            for image, (top, left) in zip(padded, offsets, strict=True)
        ]
    )


if __name__ == "__main__":
    main()
