"""What a race is between: the same step in torch and here, and what the command makes of it."""

import json

import pytest
import torch
from typer.testing import CliRunner

from batchnorm.bench.conditions import conditions, lines, memory_setting
from batchnorm.bench.contenders import AGAIN, LAYOUTS, TORCH, Inputs, Problem, contenders
from batchnorm.bench.race import Contender, DifferenceError, check_same
from batchnorm.cli.app import app
from batchnorm.core.activation import ACTIVATIONS
from batchnorm.core.errors import OptionError

SHAPES = ((6, 5), (4, 5, 7), (4, 5, 3, 3), (2, 5, 2, 3, 2))


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("residual", [True, False], ids=["residual", ""])
@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: f"{len(s)}d")
def test_torch_and_we_compute_the_same(shape, residual, training):
    for layout in LAYOUTS if len(shape) > 3 else LAYOUTS[:1]:
        problem = Problem(shape, "relu", residual, layout, training=training)
        check_same(contenders(problem), problem.tolerance)


@pytest.mark.parametrize("activation", [None, *ACTIVATIONS])
def test_every_activation_can_race(activation):
    problem = Problem((4, 5, 3, 3), activation, True, dtype="float64")
    check_same(contenders(problem), problem.tolerance)


@pytest.mark.parametrize("dtype", ["float64", "bfloat16", "float16"])
def test_every_dtype_can_race(dtype):
    problem = Problem((16, 8, 6, 6), dtype=dtype)
    check_same(contenders(problem), problem.tolerance)


def test_another_computation_is_refused():
    (right,), (wrong,) = (contenders(Problem((16, 8, 6, 6), name), (TORCH,)) for name in ("relu", "silu"))
    with pytest.raises(DifferenceError):
        check_same([right, wrong], 1e-3)


@pytest.mark.parametrize("term", ["mean", "x"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_gradient_without_one_of_its_terms_is_refused(term, dtype):
    problem = Problem((32, 8, 16, 16), None, dtype=dtype)
    (right,), inputs = contenders(problem, (TORCH,)), Inputs.of(problem)

    def backward(y):
        dx, dweight, dbias = right.backward(y)
        layer_scale = inputs.weight / inputs.x.detach().float().std((0, 2, 3))
        size = inputs.x.numel() / inputs.x.size(1)
        missing = {"mean": dbias, "x": dweight}[term] * layer_scale / size
        along = (
            1.0
            if term == "mean"
            else (y.detach().float() - inputs.bias.view(-1, 1, 1)) / inputs.weight.view(-1, 1, 1)
        )
        return (dx + missing.view(-1, 1, 1) * along).to(dx.dtype), dweight, dbias

    with pytest.raises(DifferenceError, match="result 1 of wrong"):
        check_same([right, Contender("wrong", right.forward, backward, right.state)], problem.tolerance)


def test_inputs_have_the_layout_and_the_same_values():
    plain, last = (Inputs.of(Problem((2, 3, 4, 4), "relu", True, layout)) for layout in LAYOUTS)
    assert last.x.is_contiguous(memory_format=torch.channels_last)
    assert last.dy.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(plain.x, last.x)
    assert torch.equal(plain.residual, last.residual)


@pytest.mark.parametrize(
    "options",
    [
        {"shape": (3,)},
        {"shape": (3, 0)},
        {"shape": (3, 4), "layout": "channels_last"},
        {"shape": (3, 4), "layout": "NHWC"},
        {"shape": (3, 4), "dtype": "int8"},
        {"shape": (3, 4), "activation": "softmax"},
    ],
)
def test_problems_that_cannot_be_are_refused(options):
    with pytest.raises(OptionError):
        Problem(**options)


def test_a_problem_says_what_it_is():
    assert str(Problem((2, 3), None)) == "bn (2,3) contiguous"
    assert (
        str(Problem((2, 3, 4, 4), "silu", True, "channels_last", "bfloat16", training=False))
        == "evaluation: bn + add + silu (2,3,4,4) channels_last bfloat16"
    )


def test_conditions_are_plain_values_with_all_that_times_depend_on():
    found = conditions()
    assert json.loads(json.dumps(found)) == found
    text = "\n".join(lines(found))
    for what in (
        torch.__version__,
        found["processor"],
        f"{torch.get_num_threads()} threads",
        found["kernels"],
        "malloc",
    ):
        assert what in text


def test_the_memory_setting_is_told_from_the_environment(monkeypatch):
    for name in ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "THP_MEM_ALLOC_ENABLE", "LD_PRELOAD"):
        monkeypatch.delenv(name, raising=False)
    assert memory_setting() == "default"
    monkeypatch.setenv("THP_MEM_ALLOC_ENABLE", "1")
    assert memory_setting() == "huge pages"
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", "1")
    assert memory_setting() == "other"
    monkeypatch.delenv("THP_MEM_ALLOC_ENABLE")
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "1")
    assert memory_setting() == "recycled"


def test_the_command_times_the_shapes_it_is_given(tmp_path):
    out = tmp_path / "times.json"
    arguments = [
        "bench",
        "--shape",
        "4,3,2,2",
        "--shape",
        "6,3",
        "--residual",
        "--seconds",
        "0.02",
        "--threads",
        "1",
    ]
    done = CliRunner().invoke(app, [*arguments, "--json", str(out)], catch_exceptions=False)
    assert done.exit_code == 0
    for text in (
        "bn + add + relu (4,3,2,2) contiguous",
        "bn + add + relu (6,3)",
        AGAIN,
        "1 threads",
        torch.__version__,
    ):
        assert text in done.output
    written = json.loads(out.read_text())
    assert [row["problem"] for row in written["results"]] == [
        "bn + add + relu (4,3,2,2) contiguous",
        "bn + add + relu (6,3) contiguous",
    ]
    assert written["conditions"]["threads"] == 1
    assert {len(times) for times in written["results"][0]["step"].values()} != {0}


def test_the_command_refuses_a_shape_that_is_none():
    with pytest.raises(OptionError, match="64,64,56,56"):
        CliRunner().invoke(app, ["bench", "--shape", "4,a"], catch_exceptions=False)
