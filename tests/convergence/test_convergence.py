"""The same small CNN trained with torch's layer and ours: the loss curves part no further than torch's from itself.

Training amplifies rounding, so two right implementations end apart. How far is measured: torch's own run is repeated
with initial weights scaled by 1 ± k units in the last place (a change no larger than one rounding), and each curve of
ours must stay within the envelope of those runs around torch's, step by step.
"""

import functools

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import batchnorm as bn

STEPS, BATCH = 60, 16
# Relative changes of the initial weights, in units of 2^-23.
NUDGES = (1, -1, 2, -2, 3, -3)


class TorchBlock(nn.Module):
    """bn(conv), the residual, ReLU, as one writes it with torch."""

    def __init__(self, width, stride=1):
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1, stride=stride, bias=False)
        self.bn = nn.BatchNorm2d(width)

    def forward(self, x):
        y = self.bn(self.conv(x))
        return F.relu(y + x if y.shape == x.shape else y)


class OurBlock(nn.Module):
    """The same in one call."""

    def __init__(self, width, stride=1):
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1, stride=stride, bias=False)
        self.bn = bn.BatchNorm2d(width, activation="relu")

    def forward(self, x):
        y = self.conv(x)
        return self.bn(y, x if y.shape == x.shape else None)


def network(block):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 12, 3, padding=1),
        block(12),
        block(12, stride=2),
        block(12),
        nn.Flatten(),
        nn.Linear(12 * 36, 4),
    )


def batches():
    """Four classes: which quadrant has the bright spot, in noise."""
    generator = torch.Generator().manual_seed(1)
    for _ in range(STEPS):
        labels = torch.randint(4, (BATCH,), generator=generator)
        images = torch.randn(BATCH, 1, 12, 12, generator=generator)
        for image, label in zip(images, labels.tolist(), strict=True):
            image[
                0, 6 * (label // 2) + 1 : 6 * (label // 2) + 5, 6 * (label % 2) + 1 : 6 * (label % 2) + 5
            ] += 0.8
        yield images, labels


def train(block, nudge=0, layout=torch.contiguous_format):
    """The loss at every step, and the trained model."""
    model = network(block).to(memory_format=layout)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(1 + nudge * 2.0**-23)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    losses = []
    for images, labels in batches():
        loss = F.cross_entropy(model(images.to(memory_format=layout)), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return torch.stack(losses).double(), model


@functools.cache
def torchs(layout):
    """torch's curve, and how far its own nudged runs are from it at each step, at most."""
    base, model = train(TorchBlock, layout=layout)
    nudged = torch.stack([train(TorchBlock, nudge, layout)[0] for nudge in NUDGES])
    # A running maximum, smoothed over neighbours: at a single step two curves may cross.
    envelope = (nudged - base).abs().amax(0)
    return base, envelope.cummax(0).values, model


@pytest.mark.parametrize(
    "layout", [torch.contiguous_format, torch.channels_last], ids=["contiguous", "channels_last"]
)
@pytest.mark.parametrize("backend", ["kernel", "native"])
def test_our_curve_stays_in_torchs_envelope(backend, layout, record_property):
    base, envelope, theirs = torchs(layout)
    before = bn.functional.calls.copy()
    with bn.functional.backend(backend):
        curve, ours = train(OurBlock, layout=layout)
    # Which code ran on each side: three layers, every step, all on the named backend; torch's network has none of ours.
    assert bn.functional.calls - before == {backend: 3 * STEPS}
    assert not any(isinstance(m, bn.BatchNorm2d) for m in theirs.modules())
    assert sum(isinstance(m, bn.BatchNorm2d) for m in ours.modules()) == 3
    distance = (curve - base).abs()
    record_property("largest distance and envelope", (float(distance.max()), float(envelope.max())))
    # Twice: six runs show less than the widest of all; at the first steps one unit of the loss itself.
    allowed = 2 * envelope + 4 * torch.finfo(torch.float32).eps * base.abs().clamp(min=1)
    assert (distance <= allowed).all(), (distance / allowed).max()
    # It trains at all, and the comparison is not one of two flat lines.
    assert base[-5:].mean() < 0.3 * base[:5].mean()


def test_another_network_leaves_the_envelope():
    """The comparison can fail: an eps of 1e-3 instead of 1e-5 is seen."""
    base, envelope, _ = torchs(torch.contiguous_format)

    class Other(TorchBlock):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            self.bn.eps = 1e-3

    curve, _ = train(Other)
    assert ((curve - base).abs() > 2 * envelope + 1e-6).any()


@pytest.mark.parametrize("backend", ["kernel", "native"])
def test_the_trained_statistics_agree(backend):
    """After training, torch's model with our state gives our evaluation outputs, and the other way round."""
    with bn.functional.backend(backend):
        _, ours = train(OurBlock)
        theirs = network(TorchBlock)
        theirs.load_state_dict(ours.state_dict())
        images, _ = next(batches())
        with torch.no_grad():
            torch.testing.assert_close(ours.eval()(images), theirs.eval()(images), rtol=1e-4, atol=1e-5)
    assert all(m.num_batches_tracked == STEPS for m in ours.modules() if isinstance(m, nn.BatchNorm2d))
