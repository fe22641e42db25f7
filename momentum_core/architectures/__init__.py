"""The networks that can be named, as modules with random weights."""

from momentum_core.architectures.build import build
from momentum_core.architectures.named import build_named, named_input_shape
from momentum_core.architectures.small_resnet import BasicBlock, SmallResNet

__all__ = ["BasicBlock", "SmallResNet", "build", "build_named", "named_input_shape"]
