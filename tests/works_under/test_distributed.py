"""DDP and FSDP2, each in two real processes over gloo. One test a worker: starting the processes is what costs."""

from itertools import product
from pathlib import Path

import pytest

from support.processes import run_workers

WORKERS = Path(__file__).parent / "workers"
BACKENDS = ["kernel", "native"]

pytestmark = pytest.mark.dist


def test_ddp_two_forwards_with_broadcast_buffers_and_a_deferred_update(tmp_path):
    ranks = run_workers(WORKERS / "ddp.py", tmp_path, *BACKENDS)
    for rank, backend in product(ranks, BACKENDS):
        ours, theirs = rank[backend]["ours"], rank[backend]["torch"]
        for row, other in zip(ours, theirs, strict=True):
            assert row == pytest.approx(other, rel=1e-9, abs=1e-9), backend
        assert ours[-1] == [6], backend
        assert rank[backend]["deferred"] == 1, backend
        # The gradients are averaged over the ranks.
        assert ours[0][1:] == ranks[0][backend]["ours"][0][1:], backend


def test_fsdp2_also_with_bfloat16_parameters_where_torchs_layer_fails(tmp_path):
    ranks = run_workers(WORKERS / "fsdp.py", tmp_path, *BACKENDS)
    for rank, backend in product(ranks, BACKENDS):
        theirs, full = rank[backend]["torch"], rank[backend]["ours"]
        for case in ("ours", "ours, checkpointed"):
            ours = rank[backend][case]
            assert ours["keys"] == theirs["keys"], (backend, case)
            assert ours["tracked"] == 3, (backend, case)
            for name in ("losses", "mean", "var"):
                assert ours[name] == pytest.approx(theirs[name], rel=1e-5, abs=1e-6), (backend, case, name)
        for case in ("ours, whole, bfloat16", "ours, each, bfloat16"):
            low = rank[backend][case]
            assert (low["dtype"], low["tracked"]) == ("torch.float32", 3), (backend, case)
            assert low["losses"] == pytest.approx(full["losses"], rel=0.1, abs=0.05), (backend, case)
            assert low["mean"] == pytest.approx(full["mean"], rel=0.1, abs=0.02), (backend, case)
        # When this fails torch has mended it: then our claim about it goes.
        assert "expected scalar type" in rank[backend]["torch, bfloat16"]["error"]


def test_a_worker_that_fails_or_hangs_ends_the_test(tmp_path):
    """The helper itself can fail, and in time."""
    worker = tmp_path / "worker.py"
    worker.write_text(
        "import os, sys, time\nprint('this rank says', os.environ['RANK'])\nsys.exit(int(sys.argv[1]))\n"
    )
    with pytest.raises(AssertionError, match=r"ended with \[3, 3\](?s:.)*this rank says 1"):
        run_workers(worker, tmp_path, "3")
    worker.write_text("import time\ntime.sleep(100)\n")
    with pytest.raises(Exception, match="timed out"):
        run_workers(worker, tmp_path, seconds=1)
