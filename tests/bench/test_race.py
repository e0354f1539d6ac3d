"""The arithmetic of a race, on a clock that only the contenders move."""

import itertools

import pytest
import torch

from batchnorm.bench.race import Contender, DifferenceError, Race, Spread, check_same, race
from batchnorm.bench.table import duration, rows

ONE = torch.ones(3)


def worker(name, clock, forward, backward=None):
    """Takes the given seconds, one after another, then the last one for ever."""
    times = {
        part: itertools.chain(s, itertools.repeat(s[-1]))
        for part, s in (("f", forward), ("b", backward or [0.0]))
    }

    def work(part, result):
        clock.now += next(times[part])
        return result

    return Contender(name, lambda: work("f", ONE), lambda y: work("b", ONE))


def test_contenders_take_turns(clock):
    order = []

    def contender(name):
        def forward():
            clock.now += 1.0
            order.append(name)

        return Contender(name, forward)

    race([contender("a"), contender("b"), contender("c")], rounds=(3, 3), tolerance=None, clock=clock)
    assert "".join(order) == "abc" * 4


def test_forward_and_backward_are_told_apart(clock):
    result = race([worker("a", clock, [1.0], [2.0])], rounds=(5, 5), clock=clock)
    assert result.seconds("a", "forward").median == 1.0
    assert result.seconds("a", "backward").median == 2.0
    assert result.seconds("a").median == 3.0


def test_the_first_round_is_not_counted(clock):
    # the comparison and the warm-up are slow
    result = race([worker("a", clock, [9.0, 9.0, 1.0])], rounds=(3, 3), clock=clock)
    assert result.step["a"] == [1.0, 1.0, 1.0]


def test_a_ratio_is_the_median_of_the_rounds_own_ratios():
    # The machine is three times slower in the second round: the ratio of medians would be 20 / 3.
    result = Race({}, {"a": [10.0, 60.0, 20.0], "b": [5.0, 15.0, 2.0]})
    assert result.ratio("a", "b") == Spread(4.0, 3.0, 7.0)


def test_quartiles_leave_out_what_disturbs_one_round():
    assert Spread.of([1.0, 1.0, 1.0, 1.0, 100.0]) == Spread(1.0, 1.0, 1.0)
    assert Spread.of([2.0]) == Spread(2.0, 2.0, 2.0)


def test_a_difference_is_in_seconds():
    result = Race({}, {"a": [10.0, 20.0, 30.0], "b": [9.0, 18.0, 27.0]})
    assert result.difference("a", "b").median == 2.0


def test_a_fast_contender_takes_many_steps_a_turn_and_the_others_as_many(clock):
    result = race(
        [worker("fast", clock, [1e-3]), worker("slow", clock, [4e-3])], block=0.01, rounds=(3, 3), clock=clock
    )
    assert result.steps_per_round == 10
    assert result.seconds("fast").median == pytest.approx(1e-3)
    assert result.ratio("slow", "fast").median == pytest.approx(4.0)


def test_rounds_fill_the_time_within_their_bounds(clock):
    def rounds(seconds):
        return len(race([worker("a", clock, [1.0])], seconds=seconds, rounds=(3, 9), clock=clock).step["a"])

    assert [rounds(0.1), rounds(5.0), rounds(100.0)] == [3, 5, 9]


def test_garbage_collection_is_on_again_after_an_error():
    import gc

    def fail():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        race([Contender("a", fail)], tolerance=None)
    assert gc.isenabled()


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (lambda: ONE * 1.02, "differs from right's by 2.0e-02 of its norm"),
        (lambda: ONE * float("nan"), "differs"),
        (lambda: torch.ones(4), r"must have right's shape \(3,\); got \(4,\)"),
        (lambda: (ONE, ONE), "1 tensors; got 2"),
    ],
    ids=["value", "nan", "shape", "number"],
)
def test_contenders_that_differ_are_not_timed(other, message, clock):
    timed = []

    def watched():
        timed.append(clock())
        return clock()

    with pytest.raises(DifferenceError, match=message):
        race([Contender("right", lambda: ONE), Contender("wrong", other)], clock=watched)
    assert timed == []


def test_what_a_step_changes_in_place_is_compared_too():
    state = torch.zeros(3)
    with pytest.raises(DifferenceError, match="result 1 of b"):
        check_same(
            [
                Contender("a", lambda: ONE, state=lambda: [state]),
                Contender("b", lambda: ONE, state=lambda: [state + 1]),
            ],
            1e-3,
        )


@pytest.mark.parametrize(("strays", "accepted"), [(4, True), (6, False)])
def test_few_elements_may_be_decided_differently(strays, accepted):
    right = torch.ones(1000)
    wrong = right.clone()
    wrong[:strays] = 0.0
    racers = [Contender("a", lambda: right), Contender("b", lambda: wrong)]
    if accepted:
        check_same(racers, 2e-3)
    else:
        with pytest.raises(DifferenceError):
            check_same(racers, 2e-3)


def test_equal_contenders_are_accepted():
    check_same([Contender("a", lambda: ONE), Contender("b", lambda: ONE * (1 + 1e-5))], 1e-3)


def test_the_table_shows_torch_against_itself():
    result = Race(
        {"torch": [1e-3] * 3, "torch again": [1e-3] * 3},
        {"torch": [4e-3] * 3, "torch again": [2e-3, 4e-3, 8e-3]},
    )
    assert rows(result) == [
        ("torch", "4.00 ms", "1.00 ms", "3.00 ms", ""),
        ("torch again", "4.00 ms", "1.00 ms", "3.00 ms", "1.00 (0.75–1.50)"),
    ]


@pytest.mark.parametrize(
    ("seconds", "text"), [(2.5, "2.50 s"), (0.99999, "1.00 s"), (0.0321, "32.1 ms"), (9.87e-6, "9.87 µs")]
)
def test_durations_have_three_digits(seconds, text):
    assert duration(seconds) == text
