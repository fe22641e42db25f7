"""A small network whose bytes a hand can count."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from momentum_core import ConversionConfig, convert

WIDTH, NUM_BLOCKS, NUM_CLASSES = 6, 9, 4


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        return x + torch.tanh(self.linear(x))


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.Sequential(*(Block() for _ in range(NUM_BLOCKS)))
        self.head = nn.Linear(WIDTH, NUM_CLASSES)

    def forward(self, x):
        return self.head(self.blocks(x))


@pytest.fixture
def network():
    torch.manual_seed(0)
    return Network()


@pytest.fixture
def momentum(network):
    return convert(network, torch.zeros(2, WIDTH), ConversionConfig(plan_memory=False))


@pytest.fixture
def batch():
    return torch.randn(8, WIDTH), torch.randint(NUM_CLASSES, (8,))
