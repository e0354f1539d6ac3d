"""The rules by which a claim is judged: declared in an experiment before it runs, applied to its records.

Every rule takes one effect a seed, both arms of a pair trained with the same seed. What an effect is, and how
it is measured, is in `measure.py`.

The interval is Student's t over paired seeds, not a bootstrap: over 3 to 5 seeds a percentile bootstrap that
says 95 % covers about 75 % to 83 %.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from scipy.special import stdtrit

MINIMUM_SEEDS = 3
MINIMUM_CENSORED_SEEDS = 5


class Bound(str, Enum):
    """What a measured effect says about the true one when a run stopped at its budget."""

    EXACT = ""
    AT_LEAST = "≥"
    AT_MOST = "≤"
    # both runs stopped at the budget: nothing is known about their ratio
    UNKNOWN = "?"


@dataclass(frozen=True)
class Effect:
    """The effect of one paired seed."""

    seed: int
    value: float
    bound: Bound = Bound.EXACT


class Word(str, Enum):
    """The three possible verdicts."""

    SUPPORTED = "supported"
    NOT_SUPPORTED = "not supported"
    INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True)
class Interval:
    """A two-sided 95 % interval."""

    low: float
    high: float


@dataclass(frozen=True)
class Verdict:
    """The outcome of a rule.

    Attributes:
        word: the verdict.
        estimate: mean of the effects (geometric for ratios); a bound if `bound` says so, None without any
            seed.
        bound: whether `estimate` is exact, or only a lower or upper bound.
        interval: None where the rule has none.
        effects: one a seed.
        reason: why it is this word, in one clause.
    """

    word: Word
    estimate: float | None
    bound: Bound
    interval: Interval | None
    effects: tuple[Effect, ...]
    reason: str

    @property
    def censored(self) -> int:
        """Number of seeds of which only a bound is known."""
        return sum(effect.bound is not Bound.EXACT for effect in self.effects)


class Rule(Protocol):
    """Turns the effects of the paired seeds into a verdict, and can say what it does."""

    def judge(self, effects: Sequence[Effect]) -> Verdict:
        """Apply the rule."""
        ...

    def describe(self) -> str:
        """Return the rule as one clause for the report."""
        ...


def student_interval(values: Sequence[float]) -> Interval:
    """Return the two-sided 95 % Student-t interval of the mean of `values` (at least two)."""
    mean, half = statistics.fmean(values), 0.0
    spread = statistics.stdev(values)
    if spread > 0:
        half = float(stdtrit(len(values) - 1, 0.975)) * spread / math.sqrt(len(values))
    return Interval(mean - half, mean + half)


@dataclass(frozen=True)
class Greater:
    """Supported if the whole interval lies above `smallest`, not supported if it lies below.

    Attributes:
        smallest: the smallest effect worth claiming.
        ratio: the effect is a ratio: mean and interval are taken of its logarithm.
        resolution: a ratio read off a grid is known to this factor either way; the interval is widened by it.
    """

    smallest: float
    ratio: bool = False
    resolution: float = 1.0

    def describe(self) -> str:
        """Return the rule as one clause for the report."""
        size = f"{self.smallest:g}×" if self.ratio else f"{self.smallest:g}"
        widened = f", widened by the grid's factor of {self.resolution:g}," if self.resolution != 1 else ""
        return f"95 % interval{widened} entirely above {size} (below: not supported)"

    def judge(self, effects: Sequence[Effect]) -> Verdict:
        """Apply the rule; runs that stopped at their budget leave bounds, which have no interval."""
        effects = tuple(effects)
        known = [effect for effect in effects if effect.bound is not Bound.UNKNOWN]
        estimate = self._back(statistics.fmean(self._forth(e.value) for e in known)) if known else None
        if any(effect.bound is not Bound.EXACT for effect in effects):
            return self._judge_censored(effects, estimate)
        if len(effects) < MINIMUM_SEEDS:
            return _too_few(effects, estimate)
        inner = student_interval([self._forth(effect.value) for effect in effects])
        interval = Interval(self._back(inner.low) / self.resolution, self._back(inner.high) * self.resolution)
        word, reason = Word.INCONCLUSIVE, "the interval contains the smallest effect worth claiming"
        if interval.low > self.smallest:
            word, reason = Word.SUPPORTED, "the interval lies above the smallest effect worth claiming"
        elif interval.high < self.smallest:
            word, reason = Word.NOT_SUPPORTED, "the interval lies below the smallest effect worth claiming"
        return Verdict(word, estimate, Bound.EXACT, interval, effects, reason)

    def _judge_censored(self, effects: tuple[Effect, ...], estimate: float | None) -> Verdict:
        kinds = {effect.bound for effect in effects} - {Bound.EXACT}
        bound = kinds.pop() if len(kinds) == 1 else Bound.UNKNOWN
        bounded = sum(effect.bound is not Bound.EXACT for effect in effects)
        count = f"{bounded} of {len(effects)} pairs give only a bound"
        lowest = self.smallest * self.resolution
        lower = all(e.bound in (Bound.EXACT, Bound.AT_LEAST) and e.value > lowest for e in effects)
        if lower and len(effects) >= MINIMUM_CENSORED_SEEDS:
            reason = f"{count}: no interval, but every seed's lower bound exceeds the smallest effect"
            return Verdict(Word.SUPPORTED, estimate, bound, None, effects, reason)
        return Verdict(Word.INCONCLUSIVE, estimate, bound, None, effects, f"{count}: no interval")

    def _forth(self, value: float) -> float:
        return math.log(value) if self.ratio else value

    def _back(self, value: float) -> float:
        return math.exp(value) if self.ratio else value


@dataclass(frozen=True)
class Band:
    """Supported if the whole interval lies inside [low, high], not supported if it lies outside."""

    low: float
    high: float

    def describe(self) -> str:
        """Return the rule as one clause for the report."""
        return f"95 % interval entirely inside [{self.low:g}, {self.high:g}] (outside: not supported)"

    def judge(self, effects: Sequence[Effect]) -> Verdict:
        """Apply the rule."""
        effects = tuple(effects)
        estimate = statistics.fmean(effect.value for effect in effects) if effects else None
        if any(effect.bound is not Bound.EXACT for effect in effects):
            reason = "some pairs give only a bound: no interval"
            return Verdict(Word.INCONCLUSIVE, estimate, Bound.UNKNOWN, None, effects, reason)
        if len(effects) < MINIMUM_SEEDS:
            return _too_few(effects, estimate)
        interval = student_interval([effect.value for effect in effects])
        word, reason = Word.INCONCLUSIVE, "the interval crosses an edge of the band"
        if self.low < interval.low and interval.high < self.high:
            word, reason = Word.SUPPORTED, "the interval lies inside the band"
        elif interval.high < self.low or interval.low > self.high:
            word, reason = Word.NOT_SUPPORTED, "the interval lies outside the band"
        return Verdict(word, estimate, Bound.EXACT, interval, effects, reason)


@dataclass(frozen=True)
class Exact:
    """Supported if every seed's effect equals `value`, without any tolerance."""

    value: float = 0.0

    def describe(self) -> str:
        """Return the rule as one clause for the report."""
        return f"exactly {self.value:g} on every seed"

    def judge(self, effects: Sequence[Effect]) -> Verdict:
        """Apply the rule."""
        effects = tuple(effects)
        estimate = statistics.fmean(effect.value for effect in effects) if effects else None
        different = [e.seed for e in effects if e.bound is not Bound.EXACT or e.value != self.value]
        if different:
            reason = f"another value on seeds {different}"
            return Verdict(Word.NOT_SUPPORTED, estimate, Bound.EXACT, None, effects, reason)
        if len(effects) < MINIMUM_SEEDS:
            return _too_few(effects, estimate)
        return Verdict(Word.SUPPORTED, estimate, Bound.EXACT, None, effects, "equal on every seed")


def _too_few(effects: tuple[Effect, ...], estimate: float | None) -> Verdict:
    reason = f"{len(effects)} seeds; a verdict needs at least {MINIMUM_SEEDS}"
    return Verdict(Word.INCONCLUSIVE, estimate, Bound.EXACT, None, effects, reason)
