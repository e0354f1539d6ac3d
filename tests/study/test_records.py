import json

import pytest

from batchnorm.study.errors import RecordsError
from batchnorm.study.experiment import Job
from batchnorm.study.records import Point, Run, Store, read

HEADER = {"settings": {"steps": 300, "device": "cpu"}, "environment": {"torch": "1"}}


def run(seed, loss=0.5):
    job = Job("he-init", "confirm", "none", 0.1, seed)
    return Run(job, (Point(15, 0.1, 0.5, 0.7), Point(30, 0.2, 0.6, loss)), 0.61, 0.2, loss is None)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "out" / "records.jsonl"


def write(path, *runs, header=HEADER):
    store = Store(path)
    study = store.open(header)
    store.start({"workers": 2})
    for each in runs:
        store.add(each)
    store.close()
    return study


def test_what_is_written_is_read(path):
    write(path, run(0), run(1, loss=None))
    study = read(path)
    assert study.runs.select("he-init", "confirm") == [run(0), run(1, loss=None)]
    assert study.header["settings"] == HEADER["settings"]
    assert study.sessions[0]["workers"] == 2
    # strict JSON: every line is readable by any parser
    for line in path.read_text().splitlines():
        json.loads(line, parse_constant=pytest.fail)


def test_the_order_of_finishing_does_not_matter(path, tmp_path):
    write(path, run(0), run(1))
    other = tmp_path / "other.jsonl"
    write(other, run(1), run(0))
    assert read(path).runs.select("he-init", "confirm") == read(other).runs.select("he-init", "confirm")


def test_a_line_torn_anywhere_costs_that_line_only(path):
    write(path, run(0), run(1))
    whole = path.read_bytes()
    start = whole.rstrip(b"\n").rfind(b"\n") + 1
    for end in range(start, len(whole)):
        path.write_bytes(whole[:end])
        assert read(path).runs.select("he-init", "confirm") == [run(0)]
    path.write_bytes(whole[: start + 20])
    assert len(write(path, run(1)).runs) == 1
    # the torn line is gone from the file, and nothing is glued to it
    assert len(read(path).runs) == 2


def test_a_torn_header_starts_over(path):
    path.parent.mkdir()
    path.write_bytes(b'{"kind":"header","form')
    write(path, run(0))
    assert len(read(path).runs) == 1


@pytest.mark.parametrize(
    "header", [{**HEADER, "settings": {"steps": 20, "device": "cpu"}}, {**HEADER, "environment": {}}]
)
def test_other_settings_are_refused_by_name_and_touch_nothing(path, header):
    write(path, run(0))
    before = path.read_bytes()
    with pytest.raises(RecordsError, match=r"(settings\.steps: 300 there, 20 now|environment\.torch).*--out"):
        write(path, header=header)
    assert path.read_bytes() == before


def test_a_damaged_line_in_the_middle_is_named(path):
    write(path, run(0), run(1))
    lines = path.read_bytes().splitlines(keepends=True)
    lines[2] = b"}{\n"
    path.write_bytes(b"".join(lines))
    with pytest.raises(RecordsError, match="line 3 is not a record"):
        read(path)


def test_another_file_is_refused(path):
    path.parent.mkdir()
    path.write_text('{"kind": "run"}\n')
    with pytest.raises(RecordsError, match="line 1 is not a record"):
        read(path)
    path.write_text('{"kind": "header", "format": 99}\n')
    with pytest.raises(RecordsError, match="not a records file of format 1"):
        read(path)


def test_a_full_disk_is_one_clear_error_and_keeps_what_was_written(path):
    write(path, run(0))
    full = Store(path)
    full.open(HEADER)
    full.close()
    full._file = open("/dev/full", "ab", buffering=0)  # noqa: SIM115, PTH123
    with pytest.raises(RecordsError, match=r"Cannot write to .*No space left.*give the same command again"):
        full.add(run(1))
    full.close()
    assert read(path).runs.jobs() == [run(0).job]


def test_a_missing_file_says_which_command_writes_it(tmp_path):
    with pytest.raises(RecordsError, match="batchnorm study --out"):
        read(tmp_path / "records.jsonl")
