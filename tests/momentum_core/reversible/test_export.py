"""Other runtimes and other kernels: ONNX, inductor, recurrent cells; and nothing left behind."""

import copy
import gc
import weakref

import onnxruntime
import pytest
import torch
from torch import nn
from torch._inductor import config as inductor_config
from torch._inductor.cpp_builder import get_cpp_compiler
from torch._inductor.exc import InvalidCxxCompiler

from momentum_core import ConversionConfig, convert
from momentum_core.architectures import build
from momentum_core.errors import ReversibilityError
from momentum_core.reversible import MomentumStack


def _momentum(blocks, num_channels, channel_dim):
    torch.manual_seed(0)
    return MomentumStack(
        blocks[1:],
        gamma=0.9,
        offsets=torch.randn(len(blocks) - 1, num_channels) * 0.1,
        predictors=torch.randn(len(blocks) - 1) * 0.1,
        channel_dim=channel_dim,
        initial_velocity=blocks[0],
    ).eval()


@pytest.mark.parametrize(
    ("kind", "num_channels", "channel_dim"), [("mlp", 4, -1), ("conv", 3, 1), ("attention", 4, -1)]
)
def test_an_exported_stack_gives_the_same_numbers_in_onnxruntime(
    tmp_path, make_blocks, make_input, kind, num_channels, channel_dim
):
    stack = _momentum(make_blocks(kind, 5), num_channels, channel_dim)
    x = make_input(kind)
    kwargs = {"mask": torch.randn(3, 3)} if kind == "attention" else {}
    shapes = {"x": {0: torch.export.Dim("batch")}}
    if kwargs:
        shapes["kwargs"] = dict.fromkeys(kwargs)
    program = torch.export.export(stack, (x,), kwargs, dynamic_shapes=shapes)
    path = tmp_path / "stack.onnx"
    torch.onnx.export(program, f=path, verbose=False)
    larger = torch.cat((x, 2 * x, x - 1))
    with torch.no_grad():
        expected = stack(larger, **kwargs)
    torch.testing.assert_close(program.module()(larger, **kwargs), expected)
    _assert_onnx(path, [larger, *kwargs.values()], expected)


@pytest.mark.parametrize("name", ["cifar_resnet20", "resnet18"])
def test_an_exported_converted_network_gives_the_same_numbers_in_onnxruntime(tmp_path, name):
    torch.manual_seed(0)
    images = torch.randn(2, 3, 32, 32)
    network = convert(
        build(name, num_classes=10), images, ConversionConfig(gamma=0.9, plan_memory=False)
    ).eval()
    path = tmp_path / "network.onnx"
    torch.onnx.export(network, (images,), path, verbose=False)
    with torch.no_grad():
        expected = network(images)
    _assert_onnx(path, [images], expected)


def _assert_onnx(path, inputs, expected):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_inputs()]
    feed = {name: x.numpy() for name, x in zip(names, inputs, strict=True)}
    (found,) = session.run(None, feed)
    torch.testing.assert_close(torch.from_numpy(found), expected, rtol=0, atol=1e-4)


class Dropped(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.norm = nn.LayerNorm(4)
        self.dropout = nn.Dropout(0.3)

    def forward(self, x):
        return x + self.dropout(torch.tanh(self.linear(self.norm(x))))


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
def test_blocks_compiled_by_inductor_draw_the_same_dropout_twice(train_step, make_input):
    try:
        get_cpp_compiler()
    except InvalidCxxCompiler:
        pytest.skip("inductor needs a C++ compiler")
    torch.manual_seed(0)
    blocks = [Dropped() for _ in range(2)]
    stack = MomentumStack(blocks, gamma=0.9)
    plain = train_step(copy.deepcopy(stack), make_input("mlp"))
    for block in blocks:
        block.compile(backend="inductor")
    # One thread: no pool of compiler processes stays behind.
    with inductor_config.patch(compile_threads=1):
        found = train_step(stack, make_input("mlp"))
        stack.backward_mode = "stored"
        stack.zero_grad()
        expected = train_step(stack, make_input("mlp"))
    for name, value in expected.items():
        assert torch.equal(found[name], value), name
    # Inductor draws numbers of its own: it was at work.
    assert not torch.equal(found["output"], plain["output"])


class Recurrent(nn.Module):
    def __init__(self, cell):
        super().__init__()
        self.cell = cell(4, 4, num_layers=2, dropout=0.3, batch_first=True)

    def forward(self, x):
        return x + self.cell(x)[0]


@pytest.mark.parametrize("cell", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize("training", [True, False])
def test_recurrent_blocks(make_input, assert_same_bits, cell, training):
    torch.manual_seed(0)
    stack = MomentumStack([Recurrent(cell) for _ in range(6)], gamma=0.9).train(training)
    found = assert_same_bits(stack, make_input("attention"))
    assert found["gradient of blocks.0.cell.weight_hh_l1"].any()


@pytest.fixture
def no_collector():
    """Without the collector of cycles, only reference counts free anything."""
    gc.disable()
    yield
    gc.enable()


def _backward(stack, y):
    y.sum().backward()


def _drop(stack, y):
    pass


def _differentiate_the_last_block_only(stack, y):
    torch.autograd.grad(y.sum(), next(stack.blocks[-1].parameters()))


def _try_a_second_backward(stack, y):
    loss = y.sum()
    loss.backward(retain_graph=True)
    try:
        loss.backward()
    except ReversibilityError:
        return
    raise AssertionError("the second backward pass was not refused")


def _try_a_gradient_of_the_gradient(stack, y):
    try:
        torch.autograd.grad(y.sum(), next(stack.parameters()), create_graph=True)
    except ReversibilityError:
        return
    raise AssertionError("create_graph was not refused")


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("backward", ["reversible", "stored"])
@pytest.mark.parametrize("kind", ["mlp", "conv", "attention"])
@pytest.mark.parametrize(
    "use",
    [
        _backward,
        _drop,
        _differentiate_the_last_block_only,
        _try_a_second_backward,
        _try_a_gradient_of_the_gradient,
    ],
)
def test_a_pass_is_freed_with_its_output(make_blocks, make_input, use, kind, backward):
    stack = MomentumStack(
        make_blocks(kind, 4),
        gamma=0.9,
        backward=backward,
        trainable_rule=True,
        initial_velocity=make_blocks(kind, 1)[0],
    )
    y = stack(make_input(kind).requires_grad_())
    tape = y.grad_fn.tape
    held = [weakref.ref(one) for one in (tape, *tape.held_tensors())]
    del tape
    use(stack, y)
    del y
    assert [reference() for reference in held] == [None] * len(held)


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("backward", ["reversible", "stored"])
@pytest.mark.parametrize("kind", ["mlp", "conv", "attention"])
def test_the_state_is_freed_by_the_backward_pass_though_the_loss_lives_on(
    make_blocks, make_input, kind, backward
):
    stack = MomentumStack(make_blocks(kind, 4), gamma=0.9, backward=backward)
    y = stack(make_input(kind).requires_grad_())
    held = [weakref.ref(one) for one in y.grad_fn.tape.held_tensors()]
    loss = y.sum()
    loss.backward()
    assert [reference() for reference in held] == [None] * len(held)
    assert loss.grad_fn is not None
