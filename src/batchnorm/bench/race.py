"""Timing several codes against each other in one process, in turn, after checking that they compute the same.

What is timed is in `contenders.py`; under which conditions in `conditions.py`; how it is shown in `table.py`.
"""

import gc
import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from batchnorm.core.errors import BatchNormError

__all__ = ["Contender", "DifferenceError", "Race", "Spread", "check_same", "race"]


# An element is a stray if it is off by more than this share of the root mean square; so many of them may be.
STRAY, MOST_STRAYS = 0.05, 5e-3
# What is this much smaller than the largest result is compared at this size.
NOTHING = 1e-5


class DifferenceError(BatchNormError, AssertionError):
    """Two contenders do not compute the same, so their times say nothing about each other."""


def _nothing(output: Any) -> Any:
    return ()


def _no_state() -> Sequence[Tensor]:
    return ()


@dataclass(frozen=True)
class Contender:
    """One code to time: `forward()` returns an output, `backward(output)` what follows from it.

    Both make their results anew at each call; what they return is dropped inside the timed block, as a
    training loop drops it. `state()` is what a step changes in place, for the comparison of contenders.
    """

    name: str
    forward: Callable[[], Any]
    backward: Callable[[Any], Any] = _nothing
    state: Callable[[], Sequence[Tensor]] = _no_state


@dataclass(frozen=True)
class Spread:
    """A median with the quartiles around it."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """The spread of one or more values."""
        if len(values) == 1:
            return cls(values[0], values[0], values[0])
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median, low, high)


@dataclass(frozen=True)
class Race:
    """Seconds of every round, by contender: of the forward alone, and of the whole step."""

    forward: Mapping[str, Sequence[float]]
    step: Mapping[str, Sequence[float]]
    steps_per_round: int = 1

    @property
    def names(self) -> list[str]:
        """The contenders, in their order."""
        return list(self.step)

    def seconds(self, name: str, part: str = "step") -> Spread:
        """The time of a contender's "step", "forward" or "backward"."""
        return Spread.of(self._part(name, part))

    def ratio(self, numerator: str, denominator: str, part: str = "step") -> Spread:
        """How many times longer the first takes: the spread, over rounds, of the ratio within a round."""
        pairs = zip(self._part(numerator, part), self._part(denominator, part), strict=True)
        return Spread.of([a / b for a, b in pairs])

    def difference(self, first: str, second: str, part: str = "step") -> Spread:
        """How many seconds longer the first takes, over rounds."""
        pairs = zip(self._part(first, part), self._part(second, part), strict=True)
        return Spread.of([a - b for a, b in pairs])

    def _part(self, name: str, part: str) -> Sequence[float]:
        if part == "backward":
            return [s - f for s, f in zip(self.step[name], self.forward[name], strict=True)]
        return {"step": self.step, "forward": self.forward}[part][name]


def race(
    contenders: Sequence[Contender],
    *,
    seconds: float = 2.0,
    rounds: tuple[int, int] = (7, 41),
    block: float = 5e-3,
    tolerance: float | None = 2e-3,
    clock: Callable[[], float] = time.perf_counter,
) -> Race:
    """Time the contenders in turn, A B C A B C …, after a comparison of their results and one warm-up round.

    Examples:
        >>> ones = torch.ones(1000)
        >>> result = race([Contender("sum", ones.sum), Contender("again", ones.sum)], seconds=0.01)
        >>> result.names
        ['sum', 'again']

    Args:
        contenders: what to time; the first is the one that the others are compared with.
        seconds: about how long to take, warm-up not counted.
        rounds: the least and the greatest number of rounds.
        block: a contender's turn lasts at least this many seconds: a fast one takes several steps in it, and
            the others as many.
        tolerance: greatest relative difference of results, by their norm; None where they are not comparable.
        clock: returns seconds.

    Raises:
        DifferenceError: two contenders do not compute the same.
    """
    if tolerance is not None:
        check_same(contenders, tolerance)
    with _no_garbage_collection():
        warm = [_turn(contender, 1, clock)[1] for contender in contenders]
        steps = max(1, math.ceil(block / max(min(warm), 1e-9)))
        whole = max(steps * sum(warm), 1e-9)
        forward: dict[str, list[float]] = {contender.name: [] for contender in contenders}
        step: dict[str, list[float]] = {contender.name: [] for contender in contenders}
        for _ in range(min(max(int(seconds / whole), rounds[0]), rounds[1])):
            for contender in contenders:
                times = _turn(contender, steps, clock)
                forward[contender.name].append(times[0])
                step[contender.name].append(times[1])
    return Race(forward, step, steps)


def _turn(contender: Contender, steps: int, clock: Callable[[], float]) -> tuple[float, float]:
    """Seconds of the forward and of the whole step, each the mean of `steps`."""
    forward = 0.0
    start = clock()
    for _ in range(steps):
        before = clock()
        output = contender.forward()
        forward += clock() - before
        result = contender.backward(output)
        # Memory goes back before the next step, and in this contender's time.
        del output, result
    return forward / steps, (clock() - start) / steps


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    was_enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@dataclass
class _Results:
    """The tensors of one step of a contender, in order."""

    tensors: list[Tensor] = field(default_factory=list)

    def add(self, value: Any) -> None:
        if isinstance(value, Tensor):
            self.tensors.append(value.detach())
        elif isinstance(value, (list, tuple)):
            for part in value:
                self.add(part)


def _results(contender: Contender) -> list[Tensor]:
    results = _Results()
    output = contender.forward()
    results.add(output)
    results.add(contender.backward(output))
    results.add([t.clone() for t in contender.state()])
    return results.tensors


def check_same(contenders: Sequence[Contender], tolerance: float) -> None:
    """Run a step of each and compare everything it computes with the first one's, by norm.

    Few elements may be far apart: among millions of values some lie so near a ReLU's corner that two right codes
    decide them differently. All others are compared by their norm.

    Raises:
        DifferenceError: a result is missing, has another shape, or differs by more than `tolerance`.
    """
    first, *others = contenders
    expected = _results(first)
    # A gradient that is zero but for rounding, such as that of a shift which the next batch norm removes, has no norm
    # of its own to be compared with.
    floor = NOTHING * max((_norm(b) for b in expected), default=0.0)
    for other in others:
        actual = _results(other)
        if len(actual) != len(expected):
            raise DifferenceError(
                f"{other.name} must compute what {first.name} computes: {len(expected)} tensors; "
                f"got {len(actual)}."
            )
        for number, (a, b) in enumerate(zip(actual, expected, strict=True)):
            if a.shape != b.shape:
                raise DifferenceError(
                    f"result {number} of {other.name} must have {first.name}'s shape {tuple(b.shape)}; "
                    f"got {tuple(a.shape)}."
                )
            difference = _relative_difference(a, b, floor)
            # "not <=" also refuses NaN
            if not difference <= tolerance:
                raise DifferenceError(
                    f"result {number} of {other.name}, {tuple(a.shape)} {a.dtype}, differs from "
                    f"{first.name}'s by {difference:.1e} of its norm; at most {tolerance:.0e} is allowed. "
                    f"Their times were not taken."
                )


def _norm(b: Tensor) -> float:
    return float(torch.linalg.vector_norm(b.double()))


def _relative_difference(a: Tensor, b: Tensor, floor: float) -> float:
    precision = torch.float64 if b.dtype == torch.float64 else torch.float32
    expected = b.to(precision)
    difference = a.to(precision) - expected
    norm = max(_norm(expected), floor, torch.finfo(precision).tiny)
    strays = difference.abs() > STRAY * norm / expected.numel() ** 0.5
    if float(strays.sum()) <= MOST_STRAYS * expected.numel():
        difference = difference.masked_fill(strays, 0.0)
    return float(torch.linalg.vector_norm(difference) / norm)
