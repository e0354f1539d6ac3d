"""torch's own test inputs, as shipped in its wheel (private: `torch.testing._internal`)."""

import warnings
from typing import Any

import torch

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from torch.testing._internal import common_methods_invocations, common_modules

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def _info(name: str) -> Any:
    return next(info for info in common_modules.module_db if info.name == f"nn.{name}")


def module_inputs(name: str, dtype: torch.dtype, training: bool) -> list[Any]:
    info = _info(name)
    return list(info.module_inputs_func(info, "cpu", dtype, True, training))


def module_errors(name: str, dtype: torch.dtype, training: bool) -> list[Any]:
    info = _info(name)
    return list(info.module_error_inputs_func(info, "cpu", dtype, True, training))


def function_info() -> Any:
    return next(
        op
        for op in common_methods_invocations.op_db
        if op.name == "nn.functional.batch_norm" and not op.variant_test_name
    )
