import dataclasses

import pytest
import torch
from torch import nn

import batchnorm as bn
from batchnorm.study import data
from batchnorm.study.data import Parts, Split
from batchnorm.study.experiment import Arm, Job
from batchnorm.study.registry import EXPERIMENTS, get
from batchnorm.study.train import CHANCE, shuffled, train_run


@pytest.fixture(autouse=True)
def one_thread():
    # as in a study's workers
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def parts():
    # a few of the real images: enough to train on, quick to evaluate
    whole = data.prepare(data.load(), "cpu")
    return Parts(
        *(Split(p.images[::10], p.labels[::10]) for p in (whole.train, whole.validation, whole.test))
    )


def train(parts, stage="confirm", arm="batch_norm", rate=0.1, steps=10, experiment=None):
    experiment = experiment or dataclasses.replace(get("he-init"), evaluate_every=4)
    return train_run(experiment, Job(experiment.name, stage, arm, rate, 3), parts, steps)


def numbers(run):
    return [(point.step, point.accuracy, point.loss) for point in run.curve], run.validation


@pytest.mark.parametrize("arm", ["none", "batch_norm"])
def test_a_seed_fixes_a_run_whatever_was_drawn_before(parts, arm):
    first = train(parts, arm=arm)
    torch.rand(17)
    assert numbers(train(parts, arm=arm)) == numbers(first)
    assert [point.step for point in first.curve] == [4, 8, 10]
    assert 0 < first.curve[0].seconds < first.curve[-1].seconds == first.seconds


def test_training_learns(parts):
    assert train(parts, steps=60).curve[-1].accuracy > 0.5


def test_a_run_that_chooses_a_rate_never_sees_the_test_images(parts):
    nothing = torch.full_like(parts.test.images, torch.nan)
    poisoned = dataclasses.replace(parts, test=Split(nothing, parts.test.labels))
    run = train(poisoned, stage="sweep")
    assert run.curve == ()
    assert run.validation == train(parts, stage="sweep").validation


def test_a_loss_that_is_not_finite_counts_as_chance_and_ends_the_run(parts):
    run = train(parts, rate=1e30, arm="none", steps=100)
    assert run.diverged
    assert run.validation == run.curve[-1].accuracy == CHANCE
    assert run.curve[-1].loss is None
    assert run.curve[-1].step < 100


def test_the_order_of_images_depends_on_the_seed_alone():
    first, again, other = (shuffled(10, 4, seed) for seed in (0, 0, 1))
    orders = [[next(order).tolist() for _ in range(6)] for order in (first, again, other)]
    assert orders[0] == orders[1] != orders[2]
    # full batches only, each image at most once an epoch
    assert all(len(set(orders[0][i] + orders[0][i + 1])) == 8 for i in (0, 2, 4))


@pytest.mark.parametrize("experiment", EXPERIMENTS, ids=lambda experiment: experiment.name)
def test_both_arms_start_from_the_same_weights_and_only_one_has_our_layer(experiment):
    plain, normalised = (arm.build(5) for arm in experiment.arms)
    for kind in (nn.Conv2d, nn.Linear):
        pairs = zip(
            [m for m in plain.modules() if isinstance(m, kind)],
            [m for m in normalised.modules() if isinstance(m, kind)],
            strict=True,
        )
        assert all(torch.equal(one.weight, two.weight) for one, two in pairs)
    ours = [m for m in normalised.modules() if isinstance(m, bn.BatchNorm2d)]
    assert len(ours) == sum(isinstance(m, nn.ReLU) for m in plain.modules()) == 6
    assert not [m for m in normalised.modules() if isinstance(m, nn.ReLU)]
    assert not [m for m in plain.modules() if isinstance(m, nn.BatchNorm2d)]


@pytest.mark.parametrize("experiment", EXPERIMENTS, ids=lambda experiment: experiment.name)
def test_our_layer_trains_as_torchs_layer_does(experiment, parts):
    def build(seed):
        network = nn.Sequential()
        for module in experiment.treatment.build(seed):
            if isinstance(module, bn.BatchNorm2d):
                network.extend([nn.BatchNorm2d(module.num_features), nn.ReLU()])
            else:
                network.append(module)
        return network

    torchs = dataclasses.replace(experiment, treatment=Arm("batch_norm", "torch's", build))
    ours, theirs = (train(parts, steps=12, experiment=each).curve[-1].loss for each in (experiment, torchs))
    assert ours == pytest.approx(theirs, rel=1e-3)
