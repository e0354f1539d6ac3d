"""The parametrisation of `tests/pains`: torch's layer, and ours on both backends."""

import pytest

TORCH = "torch"
OURS = ("ours, kernel", "ours, native")


def whose(
    torch_fails: str | None = None, *, raises: type[BaseException] | None = AssertionError
) -> pytest.MarkDecorator:
    """Run a test on torch's layer and on ours; `torch_fails` says why torch's is a strict xfail."""
    torch_case = TORCH
    if torch_fails is not None:
        torch_case = pytest.param(
            TORCH, marks=pytest.mark.xfail(strict=True, raises=raises, reason=torch_fails)
        )
    return pytest.mark.parametrize("whose", [torch_case, *OURS])
