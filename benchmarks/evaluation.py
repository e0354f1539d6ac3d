"""How long does evaluation take, with a residual and a ReLU, and with a ReLU alone?"""

from batchnorm.bench.contenders import AGAIN, COMPILED, OURS, TORCH, Problem
from benchmarks.measure import Case, main
from benchmarks.shapes import LARGE, MAIN, layouts

PLAIN = (TORCH, AGAIN, OURS)


def cases() -> list[Case]:
    return [
        Case.of(
            Problem(shape, "relu", residual, layout, training=False),
            (*PLAIN, COMPILED) if shape in MAIN else PLAIN,
            seconds=1.5,
            quick=residual and shape == MAIN[1],
        )
        for shape in LARGE[:4]
        for layout in layouts(shape)
        for residual in (True, False)
    ]


if __name__ == "__main__":
    main("evaluation", cases(), __doc__)
