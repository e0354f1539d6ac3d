"""Run a worker file as real processes of one group, and never wait for them for ever."""

import json
import os
import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).parents[2] / "src"


def run_workers(worker: Path, directory: Path, *arguments: str, world: int = 2, seconds: float = 150) -> list:
    """Start `worker` as ranks 0 … world-1; return what each wrote with `report`.

    The group meets through a file in `directory`, so that two tests at the same time cannot take one port.
    """
    processes = []
    for rank in range(world):
        environment = os.environ | {
            "RANK": str(rank),
            "WORLD_SIZE": str(world),
            "WORKER_DIRECTORY": str(directory),
            "PYTHONPATH": os.pathsep.join([str(SOURCE), str(Path(__file__).parents[1])]),
            "OMP_NUM_THREADS": "1",
        }
        log = (directory / f"log.{rank}").open("w")
        processes.append(
            subprocess.Popen(
                [sys.executable, str(worker), *arguments],
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        )
        log.close()
    try:
        for process in processes:
            process.wait(seconds)
    finally:
        for process in processes:
            process.kill()
            process.wait()
    codes = [process.returncode for process in processes]
    if any(codes):
        logs = "\n".join((directory / f"log.{rank}").read_text()[-4000:] for rank in range(world))
        raise AssertionError(f"{worker.name} {' '.join(arguments)} ended with {codes}:\n{logs}")
    return [json.loads((directory / f"report.{rank}").read_text()) for rank in range(world)]


def join() -> int:
    """In a worker: join the group; the rank."""
    from datetime import timedelta

    import torch
    from torch import distributed

    torch.manual_seed(0)
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    distributed.init_process_group(
        "gloo",
        init_method=f"file://{os.environ['WORKER_DIRECTORY']}/meet",
        rank=rank,
        world_size=world,
        timeout=timedelta(seconds=100),
    )
    return rank


def report(value: object) -> None:
    """In a worker: what the test gets of this rank."""
    path = Path(os.environ["WORKER_DIRECTORY"]) / f"report.{os.environ['RANK']}"
    path.write_text(json.dumps(value))
