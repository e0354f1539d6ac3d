import subprocess
import sys

import pytest

from batchnorm.study import runner
from batchnorm.study.errors import StudyError


def test_two_studies_cannot_write_to_one_directory(tmp_path):
    with (
        runner.exclusive(tmp_path / "out"),
        pytest.raises(StudyError, match="Another study is writing to"),
        runner.exclusive(tmp_path / "out"),
    ):
        pass
    with runner.exclusive(tmp_path / "out"):
        pass


def test_a_file_in_the_place_of_the_directory_is_one_clear_error(tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(StudyError, match=r"Cannot write to .*--out"), runner.exclusive(tmp_path / "out"):
        pass


@pytest.mark.parametrize("device", ["nonsense", "cuda:99"])
def test_a_device_that_cannot_be_used_is_one_clear_error(device):
    with pytest.raises(StudyError, match=rf"--device {device} cannot be used: .*--device cpu"):
        runner.check_device(device)


def test_a_single_worker_does_not_end_its_own_process():
    code = "import os, time; from batchnorm.study import runner; runner._set_up_worker(os.getpid()); time.sleep(0.2)"
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0
