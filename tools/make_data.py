"""Make the images embedded in the package from the full Fashion-MNIST files.

    python tools/make_data.py DIRECTORY_OF_THE_FULL_SET [src/batchnorm/study/images]

Takes the first 1,000 training and the first 200 test images of each class in file order, keeps that order,
and writes them as four `idx.gz` files of the same format as the full set, with a `SHA256SUMS` of what is
inside each (the compressed bytes depend on the version of zlib, the content does not). Needs the package to
be importable.
"""

import argparse
import gzip
import hashlib
import struct
import zlib
from pathlib import Path

from torch import Tensor

from batchnorm.study import data

EACH = {"train": 1000, "t10k": 200}


def idx(values: Tensor) -> bytes:
    """Return `values` (unsigned bytes) in the idx format: magic number, sizes, bytes."""
    head = struct.pack(">HBB", 0, 8, values.dim()) + struct.pack(f">{values.dim()}I", *values.shape)
    return head + values.contiguous().numpy().tobytes()


def smallest_gzip(content: bytes) -> bytes:
    """Return the shortest gzip of `content` among zlib's strategies, without a name or a date in it."""
    found: list[bytes] = []
    for strategy in (zlib.Z_DEFAULT_STRATEGY, zlib.Z_FILTERED):
        packer = zlib.compressobj(9, zlib.DEFLATED, 31, 9, strategy)
        found.append(packer.compress(content) + packer.flush())
    return min(found, key=len)


def main() -> None:
    """Write the four files and their checksums."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path, nargs="?", default=Path("src/batchnorm/study/images"))
    options = parser.parse_args()
    full = data.read_files(options.source, data.FULL_SET)
    sums: list[str] = []
    for part, each in EACH.items():
        images, labels = full[f"{part}-images-idx3-ubyte"], full[f"{part}-labels-idx1-ubyte"]
        chosen = data.first_of_each_class(labels, each)
        for name, values in ((f"{part}-images-idx3-ubyte", images), (f"{part}-labels-idx1-ubyte", labels)):
            content = idx(values[chosen])
            packed = smallest_gzip(content)
            if gzip.decompress(packed) != content:
                raise SystemExit(f"{name}: what was packed is not what comes out")
            (options.target / f"{name}.gz").write_bytes(packed)
            sums.append(f"{hashlib.sha256(content).hexdigest()}  {name}")
    (options.target / "SHA256SUMS").write_text("\n".join(sums) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
