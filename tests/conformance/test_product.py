"""dtype × layout × shape × activation × residual × affine × tracking × mode, on both backends, against float64.

Three training steps with batches of different sizes, or one evaluation: outputs, every gradient, strides, buffers.
Every pair of options in the short list; with `--all` the full product.
"""

import itertools

import pytest

from support import options, product

BACKENDS = ("kernel", "native")
SHORT = product.short_list()
FULL = [
    dict(zip(product.OUTER, values, strict=True))
    for values in itertools.product(*(product.OPTIONS[name] for name in product.OUTER))
]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", SHORT, ids=product.name_of)
def test_pairs(case, backend):
    product.check(case, backend)


@pytest.mark.skipif(not options.full_product(), reason="the full product runs with --all")
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("outer", FULL if options.full_product() else FULL[:1], ids=product.name_of)
def test_full_product(outer, backend):
    failures, inner = [], list(product.full_product(outer))
    for case in inner:
        try:
            # Twice the allowance: among so many cases some meet torch at its luckiest.
            product.check(case, backend, slack=2)
        except AssertionError as error:
            failures.append(f"{product.name_of(case)}: {error}")
    assert not failures, f"{len(failures)} of {len(inner)} cases failed; the first: {failures[0]}"
