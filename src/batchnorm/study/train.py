"""One training run: network, data order and schedule from a seed, accuracy and time while it trains.

Which runs there are is in `experiment.py`; how they are spread over processes is in `runner.py`.
"""

import time
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

from batchnorm.study.data import CLASSES, Parts, Split
from batchnorm.study.experiment import Experiment, Job
from batchnorm.study.records import Point, Run

CHANCE = 1 / CLASSES


def train_run(experiment: Experiment, job: Job, parts: Parts, steps: int) -> Run:
    """Train one network for `steps` steps and return what came out.

    SGD with momentum and a rate that falls to zero along a half cosine. The order of the images depends on
    the seed alone, so it is the same for both arms. Only the training steps are timed. Judged runs are
    evaluated on the test images; runs that choose a rate see validation images only.

    Args:
        experiment: what is declared about the network and the batches.
        job: arm, rate and seed.
        parts: training, validation and test images.
        steps: optimizer steps.
    """
    train, validation, test = parts.train, parts.validation, parts.test
    device = train.images.device
    model = experiment.arm(job.arm).build(job.seed).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=job.rate, momentum=experiment.momentum, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps)
    batches = shuffled(len(train.labels), experiment.batch_size, job.seed)
    every = experiment.evaluate_every if job.stage == "confirm" else steps
    curve: list[Point] = []
    seconds, finite, step = 0.0, True, 0
    while step < steps and finite:
        stop = min(step + every - step % every, steps)
        start = clock(device)
        loss = torch.zeros((), device=device)
        while step < stop:
            indices = next(batches).to(device)
            loss = functional.cross_entropy(model(train.images[indices]), train.labels[indices])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            step += 1
        seconds += clock(device) - start
        # parameters too: a step can leave them non-finite after a loss that was still finite
        finite = all(bool(torch.isfinite(value).all()) for value in (loss, *model.parameters()))
        if job.stage == "confirm":
            reached = accuracy(model, test) if finite else CHANCE
            curve.append(Point(step, seconds, reached, loss.item() if finite else None))
    return Run(job, tuple(curve), accuracy(model, validation) if finite else CHANCE, seconds, not finite)


def shuffled(count: int, size: int, seed: int) -> Iterator[Tensor]:
    """Yield full batches of indices for ever, in a new order each epoch."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        order = torch.randperm(count, generator=generator)
        yield from order[: count - count % size].split(size)


def accuracy(model: nn.Module, part: Split, chunk: int = 500) -> float:
    """Return the share of images that the model labels right, in evaluation mode."""
    model.eval()
    right = 0
    with torch.no_grad():
        for images, labels in zip(part.images.split(chunk), part.labels.split(chunk), strict=True):
            right += int((model(images).argmax(1) == labels).sum())
    model.train()
    return right / len(part.labels)


def clock(device: torch.device) -> float:
    """Return seconds of this process's CPU time; on another device wall time, after its queue has drained."""
    if device.type == "cpu":
        return time.process_time()
    torch.accelerator.synchronize(device)
    return time.perf_counter()
