import random

import pytest

from batchnorm.study.verdict import Band, Bound, Effect, Exact, Greater, Word, student_interval


def effects(*values, bound=Bound.EXACT):
    return [Effect(seed, value, bound) for seed, value in enumerate(values)]


@pytest.mark.parametrize(
    ("values", "half"),
    [
        # mean 2, deviation 1: half width t(0.975, n - 1) / sqrt(n) with t from the published table
        ([1.0, 2.0, 3.0], 4.302653 / 3**0.5),
        ([1.0, 1.5, 2.0, 2.5, 3.0], 2.776445 * 0.790569 / 5**0.5),
    ],
)
def test_the_interval_is_students(values, half):
    interval = student_interval(values)
    assert interval.low == pytest.approx(2 - half, rel=1e-5)
    assert interval.high == pytest.approx(2 + half, rel=1e-5)


def test_the_interval_covers_95_percent_over_three_seeds():
    rng = random.Random(0)
    found = 0
    for _ in range(4000):
        interval = student_interval([rng.gauss(0, 1) for _ in range(3)])
        found += interval.low <= 0 <= interval.high
    # four standard errors of a share of 0.95 over 4000 draws
    assert found / 4000 == pytest.approx(0.95, abs=0.014)


def test_a_ratio_has_its_interval_on_the_logarithm():
    verdict = Greater(2.0, ratio=True).judge(effects(2.0, 4.0, 8.0))
    assert verdict.estimate == pytest.approx(4.0)
    # ln 2 is the deviation
    assert verdict.interval.high == pytest.approx(4.0 * 2 ** (4.302653 / 3**0.5), rel=1e-5)
    assert verdict.word is Word.INCONCLUSIVE


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ((2.0, 2.1, 2.2), Word.SUPPORTED),
        ((0.5, 0.6, 0.7), Word.NOT_SUPPORTED),
        ((0.8, 1.0, 1.4), Word.INCONCLUSIVE),
        # exactly the smallest effect is not above it
        ((1.0, 1.0, 1.0), Word.INCONCLUSIVE),
        ((9.0, 9.0), Word.INCONCLUSIVE),
        ((), Word.INCONCLUSIVE),
    ],
)
def test_greater(values, word):
    assert Greater(1.0).judge(effects(*values)).word is word


def test_too_few_seeds_have_no_interval_and_say_so():
    verdict = Greater(1.0).judge(effects(9.0, 9.0))
    assert verdict.interval is None
    assert "at least 3" in verdict.reason


@pytest.mark.parametrize(
    ("bounds", "values", "word"),
    [
        # five seeds, each bound above the smallest effect: supported without an interval
        ([Bound.AT_LEAST] * 5, [3.0] * 5, Word.SUPPORTED),
        ([Bound.AT_LEAST] * 2 + [Bound.EXACT] * 3, [3.0] * 5, Word.SUPPORTED),
        ([Bound.AT_LEAST] * 4, [3.0] * 4, Word.INCONCLUSIVE),
        ([Bound.AT_LEAST] * 5, [3.0] * 4 + [1.5], Word.INCONCLUSIVE),
        ([Bound.AT_LEAST] * 4 + [Bound.AT_MOST], [3.0] * 5, Word.INCONCLUSIVE),
        ([Bound.AT_MOST] * 5, [0.5] * 5, Word.INCONCLUSIVE),
        ([Bound.AT_LEAST] * 4 + [Bound.UNKNOWN], [3.0] * 5, Word.INCONCLUSIVE),
        ([Bound.UNKNOWN] * 5, [1.0] * 5, Word.INCONCLUSIVE),
    ],
)
def test_a_censored_pair_takes_the_interval_away(bounds, values, word):
    pairs = [
        Effect(seed, value, bound) for seed, (value, bound) in enumerate(zip(values, bounds, strict=True))
    ]
    verdict = Greater(2.0, ratio=True).judge(pairs)
    assert verdict.word is word
    assert verdict.interval is None
    assert verdict.censored == sum(bound is not Bound.EXACT for bound in bounds)
    assert f"{verdict.censored} of {len(pairs)}" in verdict.reason


def test_a_ratio_read_off_a_grid_is_known_to_a_factor_either_way():
    verdict = Greater(2.0, ratio=True, resolution=2.0).judge(effects(16.0, 16.0, 16.0))
    assert (verdict.interval.low, verdict.interval.high) == (pytest.approx(8.0), pytest.approx(32.0))
    assert Greater(2.0, ratio=True, resolution=2.0).judge(effects(4.0, 4.0, 4.0)).word is Word.INCONCLUSIVE
    assert Greater(2.0, ratio=True).judge(effects(4.0, 4.0, 4.0)).word is Word.SUPPORTED
    bounds = effects(*[3.0] * 5, bound=Bound.AT_LEAST)
    assert Greater(2.0, ratio=True, resolution=2.0).judge(bounds).word is Word.INCONCLUSIVE
    assert Greater(2.0, ratio=True).judge(bounds).word is Word.SUPPORTED


def test_nothing_known_has_no_estimate():
    assert Greater(2.0, ratio=True).judge(effects(1.0, 1.0, 1.0, bound=Bound.UNKNOWN)).estimate is None


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ((-0.50, -0.49, -0.51), Word.SUPPORTED),
        ((-0.90, -0.91, -0.92), Word.NOT_SUPPORTED),
        ((-0.50, -0.42, -0.60), Word.INCONCLUSIVE),
        ((-0.50, -0.50), Word.INCONCLUSIVE),
    ],
)
def test_band(values, word):
    assert Band(-0.6, -0.4).judge(effects(*values)).word is word


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ((0.0, 0.0, 0.0), Word.SUPPORTED),
        ((0.0, 1e-9, 0.0), Word.NOT_SUPPORTED),
        ((0.0, 0.0), Word.INCONCLUSIVE),
    ],
)
def test_exact(values, word):
    assert Exact().judge(effects(*values)).word is word
