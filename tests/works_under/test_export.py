"""`torch.export` and ONNX: the program shows torch's own batch norm, and needs nothing of this package."""

import subprocess
import sys

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

import batchnorm as bn


class Block(nn.Module):
    def __init__(self, package=bn, **options):
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 3, padding=1)
        self.norm = package.BatchNorm2d(3, **options)
        self.last = package.BatchNorm2d(3, **options)

    def forward(self, x):
        h = self.conv(x)
        return self.last(self.norm(h), h)


def _block(**options):
    torch.manual_seed(0)
    block = Block(activation="relu", **options)
    for layer in (block.norm, block.last):
        layer.running_mean.normal_()
        layer.running_var.uniform_(0.5, 2)
    return block


def _operators(program):
    return {str(node.target) for node in program.graph.nodes if node.op == "call_function"}


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_program_is_torchs_and_gives_the_same(training, strict, backend):
    block, x = _block().train(training), torch.randn(4, 2, 5, 5)
    program = torch.export.export(block, (x,), strict=strict)
    operators = _operators(program)
    assert any("batch_norm" in name for name in operators)
    assert not any(name.startswith("batchnorm") for name in operators)
    assert any("relu" in name for name in operators)
    assert block.training == training
    assert block.norm.num_batches_tracked == 0
    module = program.module()
    torch.testing.assert_close(module(x), block(x))
    state = dict(module.named_buffers())
    for name, buffer in block.named_buffers():
        if name in state:  # what a program does not use it may leave out
            torch.testing.assert_close(state[name], buffer, msg=name)


@pytest.mark.parametrize("training", [True, False])
def test_dynamic_batch(training, backend):
    block = _block().train(training)
    batch = torch.export.Dim("batch", min=2, max=64)
    program = torch.export.export(block, (torch.randn(4, 2, 5, 5),), dynamic_shapes={"x": {0: batch}})
    x = torch.randn(7, 2, 5, 5)
    torch.testing.assert_close(program.module()(x), block(x))


_LOADER = """
import sys, torch
program = torch.export.load(sys.argv[1])
x, expected = torch.load(sys.argv[2])
torch.testing.assert_close(program.module()(x), expected)
assert "batchnorm" not in sys.modules
print("same without the package")
"""


def test_saved_program_loads_without_this_package(tmp_path):
    block, x = _block().eval(), torch.randn(4, 2, 5, 5)
    torch.export.save(torch.export.export(block, (x,)), tmp_path / "block.pt2")
    torch.save((x, block(x).detach()), tmp_path / "expected.pt")
    script = [sys.executable, "-I", "-c", _LOADER, str(tmp_path / "block.pt2"), str(tmp_path / "expected.pt")]
    done = subprocess.run(script, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert "same without the package" in done.stdout


@pytest.mark.parametrize(
    "options",
    [{"estimate": bn.Frozen()}, {"update_statistics": False}, {"track_running_stats": False}],
    ids=str,
)
@pytest.mark.parametrize("training", [True, False])
def test_choices_are_in_the_program(options, training, backend):
    layer = bn.BatchNorm2d(3, **options).train(training)
    x = torch.randn(4, 3, 5, 5)
    program = torch.export.export(layer, (x,))
    module = program.module()
    torch.testing.assert_close(module(x), layer(x))
    state = dict(module.named_buffers())
    for name, buffer in layer.named_buffers():
        if name in state:  # what a program does not use it may leave out
            torch.testing.assert_close(state[name], buffer, msg=name)


def test_training_inside_hold_updates_nothing(backend):
    layer, x = bn.BatchNorm2d(3), torch.randn(4, 3, 5, 5) + 1
    with bn.hold_statistics(layer):
        module = torch.export.export(layer, (x,)).module()
    module(x)
    assert torch.equal(dict(module.named_buffers())["running_mean"], torch.zeros(3))


def test_training_with_cumulative_average(backend):
    layer, x = bn.BatchNorm2d(3, momentum=None), torch.randn(2, 4, 3, 5, 5) + 1
    module = torch.export.export(layer, (x[0],)).module()
    for batch in x:
        torch.testing.assert_close(module(batch), layer(batch))
    for name, buffer in layer.named_buffers():
        torch.testing.assert_close(dict(module.named_buffers())[name], buffer, msg=name)


def test_functional_is_torchs_too(backend):
    class Call(nn.Module):
        def forward(self, x, mean, var):
            return bn.functional.batch_norm(x, mean, var, activation="relu")

    arguments = torch.randn(4, 3), torch.randn(3), torch.rand(3) + 0.5
    program = torch.export.export(Call(), arguments)
    assert not any(name.startswith("batchnorm") for name in _operators(program))
    torch.testing.assert_close(program.module()(*arguments), Call()(*arguments))


ACTIVATIONS = [
    "relu",
    "relu6",
    "leaky_relu(0.2)",
    "silu",
    "hardswish",
    "gelu",
    "gelu_tanh",
    "sigmoid",
    "tanh",
]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize(
    "activation", ["all", *(pytest.param(a, marks=pytest.mark.slow) for a in ACTIVATIONS)]
)
def test_onnx_in_onnx_runtime(activation, tmp_path):
    names = ACTIVATIONS if activation == "all" else [activation]
    model = nn.Sequential(nn.Conv2d(2, 3, 1), *(bn.BatchNorm2d(3, activation=name) for name in names)).eval()
    x = torch.randn(4, 2, 5, 5)
    path = tmp_path / "model.onnx"
    torch.onnx.export(model, (x,), path, dynamo=True, external_data=False, verbose=False)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (y,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    np.testing.assert_allclose(y, model(x).detach().numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_onnx_with_a_residual(tmp_path):
    block, x = _block().eval(), torch.randn(4, 2, 5, 5)
    path = tmp_path / "block.onnx"
    torch.onnx.export(block, (x,), path, dynamo=True, external_data=False, verbose=False)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (y,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    np.testing.assert_allclose(y, block(x).detach().numpy(), rtol=1e-4, atol=1e-5)
