"""What does a call cost where there is almost nothing to compute?"""

from batchnorm.bench.contenders import Problem
from benchmarks.measure import Case, main

# All below 16 384 elements.
SHAPES = ((8, 16, 4, 4), (2, 8, 2, 2), (16, 64), (64, 128), (16, 16, 7, 7), (4, 32, 8, 8), (8, 64, 31))
OPTIONS = {"rounds": (21, 101), "quick": True}


def cases() -> list[Case]:
    found = [Case.of(Problem(SHAPES[0]), **OPTIONS), Case.of(Problem(SHAPES[0], residual=True), **OPTIONS)]
    for shape in SHAPES:
        found += [
            Case.of(Problem(shape, None), **OPTIONS),
            Case.of(Problem(shape, None, training=False), **OPTIONS),
        ]
    return found


if __name__ == "__main__":
    main("small", cases(), __doc__)
