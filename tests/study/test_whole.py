"""Whole studies in real processes: what a run records must not depend on how the runs were spread."""

import json
import subprocess
import sys

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.dist]


def study(out, *options):
    command = [sys.executable, "-m", "batchnorm.cli", "study", "--seeds", "3", "--out", str(out), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def numbers(out):
    """Everything that was recorded of each run but its times."""
    lines = [json.loads(line) for line in (out / "records.jsonl").read_text(encoding="utf-8").splitlines()]
    runs = {}
    for line in lines:
        if line["kind"] == "run":
            key = tuple(line[name] for name in ("experiment", "stage", "arm", "rate", "seed"))
            curve = [(step, accuracy, loss) for step, _, accuracy, loss in line["curve"]]
            runs[key] = (curve, line["validation"], line["diverged"])
    return runs


def test_the_numbers_do_not_depend_on_the_number_of_workers(tmp_path):
    for workers in ("1", "3"):
        study(tmp_path / workers, "--only", "default-init", "--steps", "12", "--workers", workers)
    assert numbers(tmp_path / "1") == numbers(tmp_path / "3")


def test_steps_and_seeds_change_the_study(tmp_path):
    out = study(tmp_path, "--steps", "3", "--only", "he-init")
    runs = numbers(tmp_path)
    judged = {key: run for key, run in runs.items() if key[1] == "confirm"}
    assert {key[4] for key in judged} == {0, 1, 2}
    assert all([point[0] for point in curve] == [3] for curve, _, _ in judged.values())
    assert {key[0] for key in runs} == {"he-init"}
    assert "inconclusive" in out
