"""`torch.fx` keeps our layers whole; `torch.jit.script` is refused with advice; `torch.jit.trace` works in eval."""

import io

import pytest
import torch
from torch import fx, nn

import batchnorm as bn
from batchnorm.core.errors import ConversionError


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 1)
        self.norm = bn.BatchNorm2d(3, activation="relu")
        self.inner = nn.Sequential(bn.BatchNorm2d(3))

    def forward(self, x):
        h = self.conv(x)
        return self.inner(self.norm(h, residual=h) + self.norm(h))


@pytest.mark.parametrize("training", [True, False])
def test_fx_keeps_the_layer_whole(training, backend):
    block, x = Block().train(training), torch.randn(4, 2, 5, 5)
    traced = fx.symbolic_trace(block)
    called = [node.target for node in traced.graph.nodes if node.op == "call_module"]
    assert called == ["conv", "norm", "norm", "inner.0"]
    assert traced.norm is block.norm
    with bn.hold_statistics(block):
        assert torch.equal(traced(x), block(x))
    traced.graph.lint()
    assert list(traced.state_dict()) == list(block.state_dict())


def test_fx_of_a_single_layer_is_that_layer_called(backend):
    layer = bn.BatchNorm2d(3)
    traced = fx.symbolic_trace(nn.Sequential(layer))
    x = torch.randn(4, 3, 5, 5)
    traced(x)
    assert layer.num_batches_tracked == 1


def test_fx_interpreter_and_retracing(backend):
    block, x = Block().eval(), torch.randn(4, 2, 5, 5)
    traced = fx.symbolic_trace(fx.symbolic_trace(block))
    assert torch.equal(fx.Interpreter(traced).run(x), block(x))


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_script_is_refused_and_names_export(inside):
    with pytest.raises(
        ConversionError, match=r"torch\.jit\.script cannot compile BatchNorm.d.*torch\.export"
    ):
        torch.jit.script(nn.Sequential(bn.BatchNorm1d(3)) if inside else bn.BatchNorm2d(3, activation="relu"))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("estimate", [None, bn.Frozen()], ids=str)
def test_trace_in_eval_works_and_can_be_saved(estimate, backend):
    layer = bn.BatchNorm2d(3, activation="relu", estimate=estimate).eval()
    layer.running_mean.normal_()
    model = nn.Sequential(nn.Conv2d(2, 3, 1), layer).eval()
    x = torch.randn(4, 2, 5, 5)
    traced = torch.jit.trace(model, x)
    assert "batchnorm::" not in str(traced.inlined_graph)
    file = io.BytesIO()
    torch.jit.save(traced, file)
    file.seek(0)
    other = torch.randn(7, 2, 3, 3)
    torch.testing.assert_close(torch.jit.load(file)(other), model(other))
