"""How long does a training step in bfloat16 take?"""

from batchnorm.bench.contenders import Problem
from benchmarks.measure import Case, main
from benchmarks.shapes import LARGE, MAIN, layouts


def cases() -> list[Case]:
    return [
        Case.of(Problem(shape, "relu", residual, layout, "bfloat16"), quick=not residual and shape in MAIN)
        for shape in LARGE[:4]
        for layout in layouts(shape)
        for residual in (False, True)
    ]


if __name__ == "__main__":
    main("bf16", cases(), __doc__)
