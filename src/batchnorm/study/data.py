"""The images: the part of Fashion-MNIST embedded in the package, or the full set from the user's own files.

Nothing is ever downloaded. How the embedded part was made is in `tools/make_data.py`.
"""

import functools
import gzip
import hashlib
import math
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from batchnorm.study.errors import DataError

CLASSES = 10
CLASS_NAMES = (
    "T-shirt",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)
EMBEDDED = Path(__file__).with_name("images")

# sha256 of the uncompressed idx files: the same for the raw file and for a .gz made by anyone
FULL_SET: Mapping[str, str] = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}


@dataclass(frozen=True)
class Images:
    """One data set, split: training, validation (the first tenth of each training class) and test.

    Images are unsigned bytes of shape (N, 1, 28, 28), labels are int64 of shape (N).
    """

    name: str
    fingerprint: str
    train: tuple[Tensor, Tensor]
    validation: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]

    def describe(self) -> str:
        """Return one line: which set, and how many images each part has."""
        sizes = [f"{len(part[1]):,}" for part in (self.train, self.validation, self.test)]
        return f"{self.name}, 28×28: {sizes[0]} training, {sizes[1]} validation and {sizes[2]} test images"


@dataclass(frozen=True)
class Split:
    """One part of the data on the device: normalised images and their labels."""

    images: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Parts:
    """What a run gets: the three parts of the data, on its device."""

    train: Split
    validation: Split
    test: Split


def prepare(images: Images, device: str) -> Parts:
    """Return the parts on `device`, normalised by the training part's mean and deviation."""
    pixels = images.train[0].float()
    mean, std = pixels.mean(), pixels.std()

    def split(part: tuple[Tensor, Tensor]) -> Split:
        return Split(((part[0].float() - mean) / std).to(device), part[1].to(device))

    return Parts(split(images.train), split(images.validation), split(images.test))


def load(directory: Path | None = None) -> Images:
    """Return the embedded images, or the full set when `directory` is given; every file is verified.

    Args:
        directory: holds the four idx files of Fashion-MNIST, each raw or as `.gz`. None takes the embedded
            part.

    Raises:
        DataError: a file is missing, truncated, damaged or another one.
    """
    return _load(None if directory is None else directory.resolve())


@functools.lru_cache(maxsize=2)
def _load(directory: Path | None) -> Images:
    if directory is None:
        expected = embedded_checksums()
        arrays = read_files(EMBEDDED, expected)
        name = "Fashion-MNIST, the part embedded in the package (first images of each class)"
    else:
        expected = FULL_SET
        arrays = read_files(directory, expected)
        name = "Fashion-MNIST, full set"
    images, labels = arrays["train-images-idx3-ubyte"].unsqueeze(1), arrays["train-labels-idx1-ubyte"].long()
    test = (arrays["t10k-images-idx3-ubyte"].unsqueeze(1), arrays["t10k-labels-idx1-ubyte"].long())
    held_out = first_of_each_class(labels, len(labels) // CLASSES // 10)
    kept = torch.ones(len(labels), dtype=torch.bool)
    kept[held_out] = False
    return Images(
        name=name,
        fingerprint=hashlib.sha256("".join(expected.values()).encode()).hexdigest()[:16],
        train=(images[kept], labels[kept]),
        validation=(images[held_out], labels[held_out]),
        test=test,
    )


def embedded_checksums() -> dict[str, str]:
    """Return the sha256 of each embedded file's content, from the `SHA256SUMS` beside them."""
    lines = (EMBEDDED / "SHA256SUMS").read_text(encoding="utf-8").splitlines()
    return {name: digest for digest, name in (line.split() for line in lines)}


def first_of_each_class(labels: Tensor, each: int) -> Tensor:
    """Return the indices of the first `each` samples of every class, in file order."""
    found = [(labels == label).nonzero()[:each, 0] for label in range(CLASSES)]
    return torch.cat(found).sort().values


def read_files(directory: Path, expected: Mapping[str, str]) -> dict[str, Tensor]:
    """Read and verify the idx files named in `expected` (name to sha256 of the content).

    Raises:
        DataError: a file is missing, truncated, damaged or another one.
    """
    if not directory.is_dir():
        raise DataError(
            f"--data must name a directory with {_listing(expected)}; {directory} is not a directory."
        )
    return {name: _read(directory, name, digest, expected) for name, digest in expected.items()}


def _read(directory: Path, name: str, digest: str, expected: Mapping[str, str]) -> Tensor:
    path = next((p for p in (directory / f"{name}.gz", directory / name) if p.is_file()), None)
    if path is None:
        raise DataError(
            f"{directory} must hold {_listing(expected)}; {name}[.gz] is missing. "
            f"Put all four files of Fashion-MNIST there, or leave --data out to use the embedded images."
        )
    advice = "Copy or download the file again; without --data the embedded images are used."
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path} is truncated or not a gzip file ({error}). {advice}") from error
    found = hashlib.sha256(content).hexdigest()
    if found != digest:
        raise DataError(
            f"{path} must have the content with sha256 {digest}; "
            f"got {len(content):,} bytes with sha256 {found}. "
            f"The file is damaged, truncated or of another data set. {advice}"
        )
    return _parse(content, path)


def _parse(content: bytes, path: Path) -> Tensor:
    zero, kind, dims = struct.unpack_from(">HBB", content)
    sizes = struct.unpack_from(f">{dims}I", content, 4)
    start = 4 + 4 * dims
    if (zero, kind) != (0, 8) or len(content) != start + math.prod(sizes):
        raise DataError(f"{path} is not an idx file of unsigned bytes with sizes {sizes}.")
    # a bytearray, because torch warns about buffers that cannot be written
    return torch.frombuffer(bytearray(content[start:]), dtype=torch.uint8).view(sizes)


def _listing(expected: Mapping[str, str]) -> str:
    return ", ".join(f"{name}[.gz]" for name in expected)
