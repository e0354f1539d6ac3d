"""Are there shapes for which the library is slower than torch?"""

from batchnorm.bench.contenders import Problem
from benchmarks.measure import Case, main
from benchmarks.shapes import layouts

# Few channels with many positions, one channel, many samples, two values a channel, one position, one sample, many
# channels, and sizes between the small and the large ones.
SHAPES = (
    (32, 3, 256, 256),
    (64, 1, 112, 112),
    (100000, 64),
    (2, 100000),
    (2, 512, 1, 1),
    (256, 512, 1, 1),
    (1, 64, 112, 112),
    (32, 4096, 7, 7),
    (16, 64, 16, 16),
    (8, 64, 8, 8),
    (1000000, 3),
)


def cases() -> list[Case]:
    found = []
    for shape in SHAPES:
        for layout in layouts(shape) if min(shape[1:]) > 1 else ("contiguous",):
            found += [
                Case.of(Problem(shape, "relu", False, layout), seconds=1.5, quick=shape[0] in (32, 16)),
                Case.of(Problem(shape, None, False, layout), seconds=1.5),
            ]
    return found


if __name__ == "__main__":
    main("worst", cases(), __doc__)
