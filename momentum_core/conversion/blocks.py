"""What is known of the model families: their residual blocks and their stems."""

from __future__ import annotations

from torch import nn
from torchvision.models import resnet

from momentum_core.architectures import BasicBlock, SmallResNet


def is_block(module: nn.Module) -> bool:
    """Whether `module` is a residual block, shape-keeping or not."""
    return isinstance(module, BasicBlock | resnet.BasicBlock | resnet.Bottleneck)


def keeps_shape(block: nn.Module) -> bool:
    """Whether the shortcut of a residual block is the identity, so that it may join a run."""
    if isinstance(block, BasicBlock):
        return block.keeps_shape
    assert isinstance(block, resnet.BasicBlock | resnet.Bottleneck)
    return block.downsample is None and block.stride == 1


def stem_of(model: nn.Module) -> tuple[str, ...]:
    """Return the names of the modules that come first, in the order of their calls."""
    if isinstance(model, resnet.ResNet):
        return ("conv1", "bn1", "relu", "maxpool")
    if isinstance(model, SmallResNet):
        return ("conv1", "bn1", "relu")
    return ()
