"""The shapes that several scripts ask about."""

from batchnorm.bench.contenders import LAYOUTS

# From wide and shallow to narrow and deep, a video, text, and plain features.
LARGE = (
    (64, 64, 56, 56),
    (64, 256, 14, 14),
    (32, 512, 7, 7),
    (128, 32, 32, 32),
    (16, 64, 16, 56, 56),
    (64, 256, 128),
    (4096, 512),
)
MAIN = LARGE[:2]


def layouts(shape: tuple[int, ...]) -> tuple[str, ...]:
    """The layouts that torch knows for a shape."""
    return LAYOUTS if len(shape) in (4, 5) else LAYOUTS[:1]
