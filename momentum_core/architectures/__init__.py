"""The networks that can be named, as modules with random weights."""

from momentum_core.architectures.build import build
from momentum_core.architectures.named import (
    build_named,
    build_without_memory,
    library_signature,
    named_input_shape,
)
from momentum_core.architectures.registered import register_architecture, register_by_path
from momentum_core.architectures.small_resnet import BasicBlock, SmallResNet

__all__ = [
    "BasicBlock",
    "SmallResNet",
    "build",
    "build_named",
    "build_without_memory",
    "library_signature",
    "named_input_shape",
    "register_architecture",
    "register_by_path",
]
