import gzip
import hashlib
import shutil
from pathlib import Path

import pytest
import torch

from batchnorm.study import data
from batchnorm.study.errors import DataError

FULL = Path("/usr/share/datasets/fashion-mnist")
NAME = "train-labels-idx1-ubyte"


@pytest.fixture
def copy(tmp_path):
    for path in data.EMBEDDED.glob("*.gz"):
        shutil.copy(path, tmp_path / path.name)
    return tmp_path


def read(directory):
    return data.read_files(directory, data.embedded_checksums())


def test_the_embedded_images_are_balanced_and_split_without_overlap():
    images = data.load()
    assert [part[1].bincount().tolist() for part in (images.train, images.validation, images.test)] == [
        [900] * 10,
        [100] * 10,
        [200] * 10,
    ]
    assert images.train[0].shape == (9000, 1, 28, 28)
    both = torch.cat([images.train[0], images.validation[0]])
    whole = read(data.EMBEDDED)["train-images-idx3-ubyte"].unsqueeze(1)
    assert both.sum() == whole.sum()
    assert both.float().std() > 50


def test_the_licence_is_beside_the_images():
    assert "Zalando" in (data.EMBEDDED / "LICENSE").read_text()
    assert sum(path.stat().st_size for path in data.EMBEDDED.iterdir()) < 6_000_000


@pytest.mark.skipif(not FULL.is_dir(), reason="the Debian package dataset-fashion-mnist is not installed")
def test_the_embedded_images_are_the_first_of_each_class_of_the_full_set():
    full, part = data.read_files(FULL, data.FULL_SET), read(data.EMBEDDED)
    for split, each in (("train", 1000), ("t10k", 200)):
        chosen = data.first_of_each_class(full[f"{split}-labels-idx1-ubyte"], each)
        for name in (f"{split}-images-idx3-ubyte", f"{split}-labels-idx1-ubyte"):
            assert torch.equal(full[name][chosen], part[name])


def test_raw_files_are_read_as_packed_ones(copy):
    expected = read(copy)
    for path in list(copy.glob("*.gz")):
        path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
        path.unlink()
    found = read(copy)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_directory_that_is_not_there_says_what_is_expected(tmp_path):
    with pytest.raises(
        DataError, match=r"must name a directory with train-images.*nowhere is not a directory"
    ):
        data.load(tmp_path / "nowhere")


def test_a_missing_file_is_named(copy):
    (copy / f"{NAME}.gz").unlink()
    with pytest.raises(DataError, match=rf"{NAME}\[.gz\] is missing.*leave --data out"):
        read(copy)


def test_a_truncated_gz_file_is_named(copy):
    path = copy / f"{NAME}.gz"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(DataError, match=rf"{NAME}.gz is truncated or not a gzip file.*again"):
        read(copy)


@pytest.mark.parametrize("damage", ["short", "flipped", "not gzip", "bad block"])
def test_a_damaged_file_says_what_was_expected_and_what_came(copy, damage):
    path = copy / f"{NAME}.gz"
    content = gzip.decompress(path.read_bytes())
    if damage == "short":
        content = content[:5000]
    elif damage == "flipped":
        content = content[:-1] + bytes([content[-1] ^ 1])
    packed = gzip.compress(content)
    if damage == "not gzip":
        packed = b"<html>not found</html>"
    elif damage == "bad block":
        packed = packed[:12] + bytes(30) + packed[42:]
    path.write_bytes(packed)
    with pytest.raises(DataError) as caught:
        read(copy)
    assert str(path) in str(caught.value)
    assert "again" in str(caught.value)
    if damage in ("short", "flipped"):
        assert data.embedded_checksums()[NAME] in str(caught.value)
        assert hashlib.sha256(content).hexdigest() in str(caught.value)


def test_the_part_is_refused_as_the_full_set(copy):
    with pytest.raises(DataError, match=data.FULL_SET["train-images-idx3-ubyte"]):
        data.load(copy)
