"""A study in a real process, stopped in every way, goes on where it was."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from batchnorm.study.registry import get

pytestmark = [
    pytest.mark.dist,
    pytest.mark.skipif(not hasattr(os, "killpg"), reason="needs process groups"),
]
NAME = "default-init"


def start(out, *extra):
    command = [
        sys.executable,
        "-m",
        "batchnorm.cli",
        "study",
        "--only",
        NAME,
        "--steps",
        "2",
        "--seeds",
        "3",
    ]
    return subprocess.Popen(
        [*command, "--workers", "2", "--out", str(out), *extra],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        # a shell that starts a job in the background leaves SIGINT ignored, and so may whoever runs the tests
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def jobs(out):
    path = out / "records.jsonl"
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    runs = [json.loads(line) for line in lines]
    return [(run["stage"], run["arm"], run["rate"], run["seed"]) for run in runs if run["kind"] == "run"]


def wait_for(condition, what, process=None, seconds=90):
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end or (process and process.poll() is not None):
            output = process.communicate(timeout=5)[0] if process else ""
            pytest.fail(f"{what} did not happen in {seconds} s\n{output}")
        time.sleep(0.02)


def group_is_gone(group):
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False


def finish(process):
    output = process.communicate(timeout=120)[0]
    wait_for(lambda: group_is_gone(process.pid), "the end of the workers", seconds=20)
    return output


@pytest.fixture
def started():
    processes = []

    def begin(*arguments):
        processes.append(start(*arguments))
        return processes[-1]

    yield begin
    for process in processes:
        if not group_is_gone(process.pid):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(timeout=10)
        process.stdout.close()


def test_a_study_stopped_by_ctrl_c_and_by_a_kill_goes_on_where_it_was(tmp_path, started):
    out = tmp_path / "study"
    experiment = get(NAME)
    runs = len(experiment.rates) * experiment.sweep_seeds * 2 + 3 * 2

    # Ctrl-C reaches the whole process group
    process = started(out)
    wait_for(lambda: len(jobs(out)) >= 4, "the fourth run", process)
    os.killpg(process.pid, signal.SIGINT)
    output = finish(process)
    assert process.returncode == 130, output
    assert "Stopped. Finished runs are kept" in output
    assert "Traceback" not in output
    first = (out / "records.jsonl").read_bytes()
    after_interrupt = jobs(out)
    assert 4 <= len(after_interrupt) < runs
    assert first.endswith(b"\n")

    # a kill of the command alone: nobody can tell its workers, they have to notice
    process = started(out)
    wait_for(lambda: len(jobs(out)) >= len(after_interrupt) + 4, "four more runs", process)
    os.kill(process.pid, signal.SIGKILL)
    finish(process)
    after_kill = jobs(out)
    # the line that was being written when the power went
    with (out / "records.jsonl").open("ab") as file:
        file.write(b'{"kind":"run","experiment":"he-in')

    # other settings do not touch it
    process = started(out, "--device", "meta")
    output = finish(process)
    assert process.returncode == 2
    assert "settings.device: 'cpu' there, 'meta' now" in output.replace("\n", " ")
    assert "Traceback" not in output
    assert jobs(out) == after_kill

    # and to the end
    process = started(out)
    output = finish(process)
    assert process.returncode == 0, output
    assert "kept from an earlier start" in output
    assert (out / "records.jsonl").read_bytes().startswith(first)
    assert jobs(out)[: len(after_kill)] == after_kill
    assert set(Counter(jobs(out)).values()) == {1}
    assert len(jobs(out)) == runs
    assert str(out / "report.html") in output
    page = (out / "report.html").read_text()
    assert page.startswith("<!doctype html>")

    # once more, with nothing left to do: the report is drawn again, and is the same
    complete = (out / "records.jsonl").read_bytes()
    process = started(out)
    finish(process)
    assert process.returncode == 0
    assert (out / "records.jsonl").read_bytes() == complete
    assert (out / "report.html").read_text() == page


@pytest.mark.slow
def test_a_worker_that_is_killed_is_one_clear_error(tmp_path, started):
    process = started(tmp_path, "--workers", "3")
    wait_for(lambda: len(jobs(tmp_path)) >= 4, "the fourth run", process)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    workers = [pid for pid in children if b"popen_loky" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    assert len(workers) == 3
    os.kill(int(workers[0]), signal.SIGKILL)
    output = finish(process)
    assert process.returncode == 2
    assert "A worker process was ended from outside" in output.replace("\n", " ")
    assert "Traceback" not in output
    assert len(jobs(tmp_path)) >= 4
