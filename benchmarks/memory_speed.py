"""How near is the library to the speed of memory itself, and do two threads help where they help a copy?

Against two copy loops that read the input once and write the output once, in memory that is warm, while torch's and our
outputs come from a malloc that keeps what it has ("recycled").
"""

from collections.abc import Callable, Sequence

import torch

from batchnorm.bench.contenders import LAYOUTS, OURS, TORCH, Inputs, Problem, contenders
from batchnorm.bench.race import Contender
from benchmarks.copy_loops import copier
from benchmarks.measure import Case, main, title
from benchmarks.shapes import LARGE, MAIN
from benchmarks.targets import (
    COPY,
    COPY_ONE_THREAD,
    COPY_TWO_THREADS,
    ONE_THREAD,
    STREAMING_COPY,
    TWO_THREADS,
)

RACERS = (COPY, STREAMING_COPY, TORCH, OURS)
MEMORIES = ("recycled", "default")


def forwards(problem: Problem) -> Sequence[Contender]:
    """Both copies, and the forward alone of torch and of us."""
    source = Inputs.of(problem).x.detach()
    ours = [Contender(c.name, c.forward) for c in contenders(problem, (TORCH, OURS))]
    loops = [
        Contender(COPY, copier(source, past_caches=False)),
        Contender(STREAMING_COPY, copier(source, past_caches=True)),
    ]
    return [*loops, *ours]


def on_threads(problem: Problem) -> Sequence[Contender]:
    """Our whole step and the faster copy, each on one thread and on two."""
    source = Inputs.of(problem).x.detach()
    copy = copier(source, past_caches=source.numel() * source.element_size() > 2**24)
    (ours,) = contenders(problem, (OURS,))

    def with_threads(name: str, one: Contender, threads: int) -> Contender:
        def forward() -> object:
            torch.set_num_threads(threads)
            return one.forward()

        return Contender(name, forward, one.backward)

    return [
        with_threads(COPY_ONE_THREAD, Contender("", copy), 1),
        with_threads(COPY_TWO_THREADS, Contender("", copy), 2),
        with_threads(ONE_THREAD, ours, 1),
        with_threads(TWO_THREADS, ours, 2),
    ]


def _make(
    build: Callable[[Problem], Sequence[Contender]], problem: Problem
) -> Callable[[], Sequence[Contender]]:
    return lambda: build(problem)


def cases() -> list[Case]:
    found = []
    for memory in MEMORIES:
        for layout in LAYOUTS:
            for training in (True, False):
                problem = Problem(MAIN[0], "relu", False, layout, training=training)
                name = ("forward: " if training else "") + title(problem, memory)
                # A copy computes something else than a batch norm.
                case = Case(name, _make(forwards, problem), RACERS, None, 1.5, (15, 41), memory, quick=True)
                found.append(case)
    for shape in LARGE[:3]:
        for layout in LAYOUTS:
            problem = Problem(shape, "relu", False, layout)
            name = "threads: " + title(problem, "recycled")
            racers = (COPY_ONE_THREAD, COPY_TWO_THREADS, ONE_THREAD, TWO_THREADS)
            found.append(Case(name, _make(on_threads, problem), racers, None, 1.5, (11, 41), "recycled"))
    return found


if __name__ == "__main__":
    main("memory_speed", cases(), __doc__)
