"""Is the gain only page faults? The steps again where fresh memory is free, and with huge pages on both sides."""

from batchnorm.bench.contenders import AGAIN, COMPILED, OURS, TORCH, Problem
from benchmarks.measure import Case, main
from benchmarks.shapes import LARGE, MAIN, layouts

PLAIN = (TORCH, AGAIN, OURS)


def cases() -> list[Case]:
    found = []
    for memory in ("recycled", "huge pages"):
        for shape in LARGE:
            for layout in layouts(shape):
                # torch.compile's own page faults are part of what it is slow by: compared where there are none
                racers = (*PLAIN, COMPILED) if memory == "recycled" else PLAIN
                quick = shape == MAIN[1]
                found += [
                    Case.of(
                        Problem(shape, "relu", False, layout), racers, memory=memory, seconds=2, quick=quick
                    ),
                    Case.of(Problem(shape, "relu", True, layout), PLAIN, memory=memory, seconds=1.5),
                ]
    return found


if __name__ == "__main__":
    main("recycled", cases(), __doc__)
