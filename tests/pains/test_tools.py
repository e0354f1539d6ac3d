"""Pains with the tools around a layer: conversion, compile, export, torch.func. See `test_statistics.py` for xfails."""

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F

import batchnorm as bn
from support.pains import TORCH, whose


class _WithReLU(nn.BatchNorm1d):
    """What users write today: a subclass of torch's layer that does more."""

    def forward(self, x):
        return super().forward(x).relu()


@whose("the converter rebuilds every subclass bare, and the activation is gone")
def test_pain_05_sync_conversion_loses_the_activation(layers, whose):
    layer = _WithReLU(3) if whose == TORCH else layers.BatchNorm1d(3, activation="relu")
    x = torch.randn(8, 3)
    expected = layer.eval()(x)
    try:
        converted = nn.SyncBatchNorm.convert_sync_batchnorm(nn.Sequential(layer)).eval()
    except TypeError as error:
        assert "activation=relu" in str(error)
        return
    assert torch.equal(converted(x), expected)


@whose("the counter becomes a Python number, which breaks the graph", raises=Exception)
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_pain_22_compile_with_cumulative_average(layers):
    torch._dynamo.reset()
    layer, reference = layers.BatchNorm1d(3, momentum=None), nn.BatchNorm1d(3, momentum=None)
    counter = CompileCounterWithBackend("aot_eager")
    call = torch.compile(layer, backend=counter, fullgraph=True)
    for _ in range(4):
        x = torch.randn(8, 3) + 1
        torch.testing.assert_close(call(x), reference(x))
    torch.testing.assert_close(layer.running_var, reference.running_var)
    assert counter.frame_count == 1


@whose("the counter becomes a Python number, which a program cannot hold", raises=Exception)
def test_pain_22_export_of_training_with_cumulative_average(layers):
    layer, x = layers.BatchNorm1d(3, momentum=None), torch.randn(2, 8, 3) + 1
    module = torch.export.export(layer, (x[0],)).module()
    for batch in x:
        module(batch)
    state = dict(module.named_buffers())
    torch.testing.assert_close(state["running_mean"], x.mean((0, 1)))


@whose()
@pytest.mark.parametrize("training", [True, False])
def test_pain_22_export_keeps_the_mode(layers, training):
    layer, x = layers.BatchNorm1d(3).train(training), torch.randn(8, 3) + 1
    module = torch.export.export(layer, (x,)).module()
    torch.testing.assert_close(module(x), layer(x))


# A transform takes torch's formula, whatever kernels there are: on both of our backends the choice is left open.
@whose("the functional call writes the captured statistics", raises=RuntimeError)
def test_pain_23_statistics_under_vmap(layers, whose):
    x, mean, var = torch.randn(2, 8, 3) + 1, torch.zeros(3), torch.ones(3)

    def step(sample):
        if whose == TORCH:
            return F.batch_norm(sample, mean, var, training=True), mean, var
        with bn.functional.backend("auto"):
            return bn.functional.batch_norm_with_statistics(sample, mean, var, training=True)

    y, new_mean, new_var = vmap(step)(x)
    torch.testing.assert_close(new_mean, 0.1 * x.mean(1))
    torch.testing.assert_close(new_var, 0.9 + 0.1 * x.var(1))
    assert torch.equal(mean, torch.zeros(3))
    assert y.shape == x.shape


# A transform takes torch's formula, whatever kernels there are: on both of our backends the choice is left open.
@whose("the functional call writes the captured statistics", raises=RuntimeError)
def test_pain_23_per_sample_gradients(layers, whose):
    x, mean, var = torch.randn(4, 6, 3), torch.zeros(3), torch.ones(3)

    def loss(sample):
        if whose == TORCH:
            return F.batch_norm(sample, mean, var, training=True).pow(3).sum()
        with bn.functional.backend("auto"):
            return bn.functional.batch_norm_with_statistics(sample, mean, var, training=True)[0].pow(3).sum()

    gradients = vmap(grad(loss))(x)
    for sample, gradient in zip(x, gradients, strict=True):
        leaf = sample.clone().requires_grad_()
        F.batch_norm(leaf, None, None, training=True).pow(3).sum().backward()
        torch.testing.assert_close(gradient, leaf.grad, rtol=1e-4, atol=1e-4)


@whose()
def test_pain_23_functional_call_leaves_the_layer_alone(layers):
    layer, x = layers.BatchNorm1d(3), torch.randn(8, 3) + 1
    state = {key: value.detach().clone() for key, value in layer.state_dict().items()}
    functional_call(layer, state, (x,))
    assert layer.num_batches_tracked == 0
    torch.testing.assert_close(state["running_mean"], 0.1 * x.mean(0))
