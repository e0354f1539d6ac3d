"""Compare the CPU kernels with torch and the float64 oracle on many random configurations.

python tools/fuzz.py 100000 [first seed]; a failing seed is printed and can be given alone: python tools/fuzz.py 1 SEED.
"""

import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

CHUNK = 50


def run(seeds: range) -> tuple[int, list[str]]:
    """How many of `seeds` could be judged, and the failures among them."""
    import torch

    from support import random_cases

    torch.manual_seed(0)
    judged, failures = 0, []
    for seed in seeds:
        try:
            judged += random_cases.check(seed)
        except AssertionError as error:
            failures.append(str(error))
    return judged + len(failures), failures


def main(count: int, first: int = 0) -> int:
    """Run `count` seeds from `first` on in two processes; the number of failures."""
    began, done, judged, failures = time.monotonic(), 0, 0, 0
    chunks = [range(s, min(s + CHUNK, first + count)) for s in range(first, first + count, CHUNK)]
    with ProcessPoolExecutor(2) as pool:
        for chunk, (fair, found) in zip(chunks, pool.map(run, chunks), strict=True):
            done, judged, failures = done + len(chunk), judged + fair, failures + len(found)
            print(*found, sep="\n", end="\n" if found else "", flush=True)
            if done % (20 * CHUNK) == 0:
                rate = done / (time.monotonic() - began)
                print(
                    f"{done} of {count}, {failures} failed, {(count - done) / rate / 60:.0f} min left",
                    flush=True,
                )
    print(f"{judged} random configurations of {done} seeds from {first} had a fair input: {failures} failed")
    return failures


if __name__ == "__main__":
    sys.exit(bool(main(*map(int, sys.argv[1:]))))
