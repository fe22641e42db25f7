"""Residual networks for small images: three-by-three stem, option-A shortcuts, one linear head."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class BasicBlock(nn.Module):
    """Two three-by-three convolutions; the shortcut has no parameters ("option A").

    Where the width grows, the shortcut takes every second pixel and pads the new channels with
    zeros, in equal parts before and after the old ones.

    Source: He et al. 2015, Deep Residual Learning (arXiv:1512.03385), sections 3.3 and 4.2.
    """

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.stride = 1 if in_channels == channels else 2
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride=self.stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU()

    @property
    def keeps_shape(self) -> bool:
        """Whether the shortcut is the identity."""
        return self.stride == 1

    def forward(self, x: Tensor) -> Tensor:
        """Return relu(shortcut(x) + f(x)), shape (B, channels, H / stride, W / stride)."""
        f_x = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        output: Tensor = self.relu(f_x + self._shortcut(x))
        return output

    def _shortcut(self, x: Tensor) -> Tensor:
        if self.keeps_shape:
            return x
        missing = self.conv1.out_channels - self.conv1.in_channels
        before = missing // 2
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, before, missing - before))


class SmallResNet(nn.Module):
    """Stages of `depth` basic blocks, one stage for each width; 2 * depth * stages + 2 layers.

    Source: He et al. 2015, Deep Residual Learning (arXiv:1512.03385), section 4.2.
    """

    def __init__(
        self, depth: int, *, in_channels: int, widths: tuple[int, ...], num_classes: int
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, widths[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.relu = nn.ReLU()
        channels = widths[0]
        self.stages = tuple(f"layer{number + 1}" for number in range(len(widths)))
        for stage, width in zip(self.stages, widths, strict=True):
            inputs = (channels, *(width,) * (depth - 1))
            self.add_module(stage, nn.Sequential(*(BasicBlock(c, width) for c in inputs)))
            channels = width
        self.linear = nn.Linear(channels, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits, shape (B, num_classes), of images (B, in_channels, H, W)."""
        x = self.relu(self.bn1(self.conv1(x)))
        for stage in self.stages:
            x = self.get_submodule(stage)(x)
        logits: Tensor = self.linear(x.mean(dim=(2, 3)))
        return logits
