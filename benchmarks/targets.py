"""Judges the targets of targets.toml from the JSON of the scripts: met, missed or not measured, with the number."""

import importlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import tomllib

from batchnorm.bench.contenders import AGAIN, COMPILED, MASK_FREE, OURS, TORCH
from batchnorm.bench.race import Race, Spread
from benchmarks.measure import Case, Results

TARGETS = Path(__file__).with_name("targets.toml")

COPY, STREAMING_COPY = "copy", "copy, non-temporal"
ONE_THREAD, TWO_THREADS = "batchnorm, 1 thread", "batchnorm, 2 threads"
COPY_ONE_THREAD, COPY_TWO_THREADS = "copy, 1 thread", "copy, 2 threads"
OTHERS = ("JAX", "flax", "TensorFlow", COMPILED)
ONEDNN = "oneDNN"
COMPILED_AGAIN = "torch.compile again"


class Verdict(Enum):
    MET = "met"
    MISSED = "missed"
    NOT_MEASURED = "not measured"
    DOES_NOT_APPLY = "does not apply"


@dataclass(frozen=True)
class Metric:
    """A number about a race: the first against the others that ran, of which the fastest counts.

    `upper` and `lower` name contenders; the metric is seconds(upper) / seconds(lower), or their difference in µs.
    """

    upper: tuple[str, ...]
    lower: tuple[str, ...]
    difference: bool = False

    def of(self, race: Race) -> Spread | None:
        names = [[n for n in side if n in race.names] for side in (self.upper, self.lower)]
        if not all(names):
            return None
        a, b = (min(side, key=lambda n: race.seconds(n).median) for side in names)
        if not self.difference:
            return race.ratio(a, b)
        seconds = race.difference(a, b)
        return Spread(seconds.median * 1e6, seconds.low * 1e6, seconds.high * 1e6)


METRICS: Mapping[str, Metric] = {
    "T": Metric((TORCH,), (OURS,)),
    "C": Metric((COMPILED,), (OURS,)),
    "C, no mask": Metric((MASK_FREE,), (OURS,)),
    "extra µs": Metric((OURS,), (TORCH,), difference=True),
    "of a copy": Metric((OURS,), (COPY, STREAMING_COPY)),
    "two threads": Metric((ONE_THREAD,), (TWO_THREADS,)),
    "copy on two threads": Metric((COPY_ONE_THREAD,), (COPY_TWO_THREADS,)),
    "fastest other": Metric(OTHERS, (OURS,)),
    "of oneDNN": Metric((OURS,), (ONEDNN,)),
    # how far two times of torch's own code are apart
    "noise": Metric((TORCH,), (AGAIN,)),
    "noise, compiled": Metric((COMPILED,), (COMPILED_AGAIN,)),
}


@dataclass(frozen=True)
class Target:
    """One promise about one case."""

    id: str
    script: str
    case: str
    metric: str
    at_least: float | None = None
    at_most: float | None = None
    noise: bool = False
    where: tuple[str, float] | None = None

    @property
    def bound(self) -> str:
        return f"≥ {self.at_least:g}" if self.at_least is not None else f"≤ {self.at_most:g}"


@dataclass(frozen=True)
class Judged:
    """A target with what was found: `value` by the metric, `noise` by torch against itself in the same race."""

    target: Target
    verdict: Verdict
    value: Spread | None = None
    noise: Spread | None = None
    remark: str = ""


def read(path: Path = TARGETS) -> list[Target]:
    """All targets, one a case."""
    found = []
    for row in tomllib.loads(path.read_text(encoding="utf-8"))["target"]:
        cases = row.pop("cases")
        if "where" in row:
            row["where"] = tuple(row["where"])
        found += [Target(case=case, **row) for case in cases]
    return found


def script_cases(script: str) -> Sequence[Case]:
    return importlib.import_module(f"benchmarks.{script}").cases()


def judge(targets: Sequence[Target], results: Mapping[str, Results]) -> Iterator[Judged]:
    """A verdict for every target, in order."""
    for target in targets:
        yield _judge(target, results.get(target.script))


def _judge(target: Target, results: Results | None) -> Judged:
    race = results.race(target.case) if results is not None else None
    value = METRICS[target.metric].of(race) if race is not None else None
    if race is None or value is None:
        remark = "" if results is None else results.skipped.get(target.case, "")
        return Judged(target, Verdict.NOT_MEASURED, remark=remark)
    noise = METRICS["noise"].of(race) or METRICS["noise, compiled"].of(race)
    if target.where is not None:
        metric, least = target.where
        found = METRICS[metric].of(race)
        if found is None or found.median < least:
            remark = f"{metric}: " + (
                "not measured" if found is None else f"{found.median:.2f}, below {least:g}"
            )
            return Judged(target, Verdict.DOES_NOT_APPLY, value, noise, remark)
    met = _met(target, value.median, noise)
    return Judged(target, Verdict.MET if met else Verdict.MISSED, value, noise)


def _met(target: Target, value: float, noise: Spread | None) -> bool:
    if target.at_most is not None:
        return value <= target.at_most
    least = target.at_least
    if target.noise and noise is not None:
        # The lower quartile of torch against itself: a code that is exactly as fast would be found there as well.
        least = min(least, noise.low)
    return value >= least
