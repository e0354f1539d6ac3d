"""How long does a training step take: batch norm alone, with a ReLU, with a residual and a ReLU?"""

from batchnorm.bench.contenders import COMPILED, KINDS, MASK_FREE, Problem
from benchmarks.measure import Case, main
from benchmarks.shapes import LARGE, MAIN, layouts

PLAIN = tuple(kind for kind in KINDS if kind not in (COMPILED, MASK_FREE))


def cases() -> list[Case]:
    found = []
    for shape in LARGE:
        for layout in layouts(shape):
            found += [
                # torch.compile against every shape; with a residual at the two shapes that most networks spend time in
                Case.of(Problem(shape, "relu", False, layout), KINDS, seconds=4, quick=shape == MAIN[1]),
                Case.of(Problem(shape, "relu", True, layout), KINDS if shape in MAIN else PLAIN, seconds=3),
                Case.of(Problem(shape, None, False, layout), PLAIN, quick=shape in MAIN),
            ]
    return found


if __name__ == "__main__":
    main("steps", cases(), __doc__)
