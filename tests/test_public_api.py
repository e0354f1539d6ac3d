"""The public names, signatures, state-dict keys and command-line options, written out: a change is a line in a diff."""

import inspect
import re
from pathlib import Path

import pytest
from torch import nn

import batchnorm as bn

NAMES = {
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "Frozen",
    "LazyBatchNorm1d",
    "LazyBatchNorm2d",
    "LazyBatchNorm3d",
    "Moments",
    "__version__",
    "defer_statistics",
    "explain",
    "functional",
    "hold_statistics",
    "testing",
}
FUNCTIONAL = {"backend", "batch_norm", "batch_norm_with_statistics", "calls"}
TESTING = {"Comparison", "assert_same", "compare"}

TORCHS = "eps=1e-05, momentum=0.1, affine=True, track_running_stats=True, device=None, dtype=None"
OURS = "bias=True, activation=None, estimate=None, update_statistics=True"
SIGNATURES = {
    "BatchNorm1d": f"num_features, {TORCHS}, *, {OURS}",
    "BatchNorm2d": f"num_features, {TORCHS}, *, {OURS}",
    "BatchNorm3d": f"num_features, {TORCHS}, *, {OURS}",
    "LazyBatchNorm1d": f"{TORCHS}, *, {OURS}",
    "LazyBatchNorm2d": f"{TORCHS}, *, {OURS}",
    "LazyBatchNorm3d": f"{TORCHS}, *, {OURS}",
    "BatchNorm2d.forward": "self, input, residual=None",
    "Frozen": "",
    "Moments": "count, mean, m2",
    "Moments.of": "values",
    "Moments.merge": "self, other",
    "Moments.merge_all": "parts",
    "Moments.variance": "self, *, correction",
    "defer_statistics": "model",
    "hold_statistics": "model",
    "explain": "subject, input=None, residual=None",
    "functional.backend": "name",
    "functional.batch_norm": "input, running_mean, running_var, weight=None, bias=None, training=False, momentum=0.1, "
    "eps=1e-05, *, residual=None, activation=None",
    "functional.batch_norm_with_statistics": "input, running_mean, running_var, weight=None, bias=None, "
    "training=False, momentum=0.1, eps=1e-05, *, residual=None, activation=None",
    "testing.assert_same": "actual, truth, baseline=None, *, channel_dim=None, scale=None, strides=False, dtype=None, "
    "slack=1.0, name='tensor'",
}

ACTIVATIONS = {
    "relu", "relu6", "leaky_relu", "silu", "hardswish", "gelu", "gelu_tanh", "sigmoid", "tanh",
}  # fmt: skip

COMMANDS = {
    "bench": {
        "--activation", "--compile", "--dtype", "--eval", "--json", "--layout", "--residual", "--seconds", "--shape",
        "--threads",
    },
    "explain": {"--activation", "--device", "--dtype", "--eval", "shape"},
    "study": {"--data", "--device", "--only", "--out", "--seeds", "--steps", "--workers"},
}  # fmt: skip


def signature(path):
    """The parameters of a public name with their defaults, without annotations."""
    target = bn
    for name in path.split("."):
        target = getattr(target, name)
    parameters = [p.replace(annotation=p.empty) for p in inspect.signature(target).parameters.values()]
    return str(inspect.Signature(parameters))[1:-1]


def commands():
    from typer.main import get_command

    from batchnorm.cli.app import app

    return get_command(app)


@pytest.mark.parametrize(
    ("module", "names"),
    [(bn, NAMES), (bn.functional, FUNCTIONAL), (bn.testing, TESTING)],
    ids=lambda v: getattr(v, "__name__", ""),
)
def test_names(module, names):
    assert set(module.__all__) == names
    assert len(module.__all__) == len(names)
    assert all(hasattr(module, name) for name in names)


@pytest.mark.parametrize("path", SIGNATURES)
def test_signatures(path):
    assert signature(path) == SIGNATURES[path]


@pytest.mark.parametrize("name", sorted(name for name in NAMES if "Norm" in name))
def test_torchs_arguments_come_first_and_in_torchs_order(name):
    ours = list(inspect.signature(getattr(bn, name)).parameters.values())
    theirs = list(inspect.signature(getattr(nn, name)).parameters.values())
    positional = [(p.name, p.default) for p in ours if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert positional == [(p.name, p.default) for p in theirs if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert {p.name for p in theirs} <= {p.name for p in ours}
    assert issubclass(getattr(bn, name), getattr(nn, name))


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("tracked", [True, False])
def test_state_dict_is_torchs(affine, tracked):
    ours = bn.BatchNorm2d(3, affine=affine, track_running_stats=tracked, activation="relu").state_dict()
    theirs = nn.BatchNorm2d(3, affine=affine, track_running_stats=tracked).state_dict()
    assert list(ours) == list(theirs)
    assert [(v.shape, v.dtype) for v in ours.values()] == [(v.shape, v.dtype) for v in theirs.values()]


def test_activations():
    from batchnorm.core import activation

    table = activation.ACTIVATIONS
    assert set(table) - {"none"} == ACTIVATIONS
    assert [row.code for row in table.values()] == list(range(len(table)))


def test_commands():
    app = commands()
    found = {name: {p.opts[0] for p in command.params} - {"--help"} for name, command in app.commands.items()}
    assert found == COMMANDS
    assert {p.opts[0] for p in app.params} - {"--help"} == {"--version"}


@pytest.mark.parametrize("name", COMMANDS)
def test_the_page_of_the_command_line_has_every_option(name):
    page = (Path(__file__).parents[1] / "docs/reference/cli.md").read_text()
    section = re.search(rf"^## batchnorm {name}$(.*?)(?=^## |\Z)", page, re.DOTALL | re.MULTILINE)
    assert section is not None
    assert set(re.findall(r"^\| `([\w-]+)[^`]*` \|", section[1], re.MULTILINE)) == COMMANDS[name]
