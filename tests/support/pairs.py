"""A short list of cases in which every pair of values of two options occurs."""

import itertools
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Options = Mapping[str, Sequence[Any]]


def all_pairs(options: Options, seed: int = 0, candidates: int = 40) -> list[dict[str, Any]]:
    """Cases (one value per option) that cover every pair; greedy, the same list for the same seed."""
    names, rng = list(options), random.Random(seed)
    missing = set(_pairs_of(options))
    cases: list[dict[str, Any]] = []
    while missing:
        # Start each candidate from a pair that is still missing, so that every case makes progress.
        seeds = rng.choices(sorted(missing), k=candidates)
        tried = [_complete(start, options, names, missing, rng) for start in seeds]
        best = max(tried, key=lambda chosen: len(covered(chosen) & missing))
        missing -= covered(best)
        cases.append({name: options[name][best[i]] for i, name in enumerate(names)})
    return cases


def _pairs_of(options: Options) -> Iterator[tuple[int, int, int, int]]:
    sizes = [len(values) for values in options.values()]
    for i, j in itertools.combinations(range(len(sizes)), 2):
        for a, b in itertools.product(range(sizes[i]), range(sizes[j])):
            yield i, a, j, b


def covered(chosen: Sequence[int]) -> set[tuple[int, int, int, int]]:
    """The pairs in one case, by position of option and value."""
    return {(i, chosen[i], j, chosen[j]) for i, j in itertools.combinations(range(len(chosen)), 2)}


def _complete(
    start: tuple[int, int, int, int],
    options: Options,
    names: list[str],
    missing: set[tuple[int, int, int, int]],
    rng: random.Random,
) -> list[int]:
    i, a, j, b = start
    chosen: dict[int, int] = {i: a, j: b}
    rest = [k for k in range(len(names)) if k not in chosen]
    rng.shuffle(rest)
    for k in rest:
        values = list(range(len(options[names[k]])))
        rng.shuffle(values)
        chosen[k] = max(
            values, key=lambda v, k=k: sum(_pair(k, v, o, w) in missing for o, w in chosen.items())
        )
    return [chosen[k] for k in range(len(names))]


def _pair(i: int, a: int, j: int, b: int) -> tuple[int, int, int, int]:
    return (i, a, j, b) if i < j else (j, b, i, a)
