import re
import subprocess
import sys

import pytest
import torch
from typer.testing import CliRunner

import batchnorm as bn
from batchnorm.cli.app import app, run


@pytest.fixture
def call(monkeypatch, capsys):
    """Run the command line in this process as `main` does: (exit code, stdout, stderr)."""

    def invoke(*arguments):
        monkeypatch.setattr(sys, "argv", ["batchnorm", *arguments])
        monkeypatch.setenv("COLUMNS", "200")
        monkeypatch.setenv("NO_COLOR", "1")
        with pytest.raises(SystemExit) as caught:
            run()
        return (caught.value.code or 0, *capsys.readouterr())

    return invoke


def plain(text):
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def test_version(call):
    assert call("--version") == (0, f"batchnorm {bn.__version__}\n", "")


def test_help_lists_the_commands(call):
    code, out, _ = call("--help")
    assert code == 0
    assert all(word in out for word in ("study", "explain", "--version"))


def test_the_options_of_the_study_are_literal():
    out = plain(CliRunner().invoke(app, ["study", "--help"], env={"COLUMNS": "200"}).output)
    found = set(re.findall(r"(?<![\w-])--[a-z]+", out))
    assert found == {f"--{n}" for n in ("seeds", "steps", "data", "out", "workers", "device", "only", "help")}


def test_explain_says_what_runs(call):
    code, out, err = call("explain", "8", "16", "4", "4", "--activation", "relu", "--dtype", "bfloat16")
    assert (code, err) == (0, "")
    assert (
        str(bn.explain(bn.BatchNorm2d(16, activation="relu"), torch.empty(8, 16, 4, 4, dtype=torch.bfloat16)))
        in out
    )
    assert "(8, 16, 4, 4) bfloat16 on cpu, training" in out


def test_explain_takes_every_number_of_dimensions_and_evaluation(call):
    for shape in (("8", "3"), ("8", "3", "5"), ("2", "3", "4", "4"), ("2", "3", "4", "4", "4"), ()):
        code, out, _ = call("explain", *shape, "--eval")
        assert code == 0
        assert "evaluation" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("explain", "8"), r"shape must be 2 to 5 positive sizes.*got \(8,\)"),
        (("explain", "8", "0"), r"positive sizes"),
        (("explain", "--dtype", "int8"), r"--dtype must be one of float32.*got 'int8'"),
        (("explain", "--device", "nonsense"), r"nonsense"),
        (("explain", "--activation", "softmax"), r"softmax"),
        (("study", "--only", "nothing"), r"--only must name one of he-init, default-init; got nothing"),
        (("study", "--data", "nowhere", "--out", "{}"), r"nowhere is not a directory"),
        (("study", "--device", "nonsense", "--out", "{}"), r"--device nonsense cannot be used"),
        (("study", "--seeds", "0"), r"--seeds"),
        (("study", "--steps", "many"), r"--steps"),
    ],
)
def test_a_users_error_is_one_message_and_an_exit_code(call, tmp_path, arguments, message):
    code, out, err = call(*(argument.format(tmp_path / "out") for argument in arguments))
    assert code == 2
    assert re.search(message, " ".join(plain(err).split()))
    assert "Traceback" not in out + err
    assert not (tmp_path / "out").exists()


@pytest.mark.dist
def test_without_the_extra_the_command_says_how_to_install_it():
    # the real entry point in a process in which one of the extra's packages cannot be found
    code = (
        "import importlib.util as u, sys; real = u.find_spec;"
        "u.find_spec = lambda name, *rest: None if name == 'typer' else real(name, *rest);"
        "from batchnorm.cli import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert (
        'needs typer, which is not installed.\nInstall the extra: pip install "batchnorm[study]"'
        in done.stderr
    )
    assert "Traceback" not in done.stderr
