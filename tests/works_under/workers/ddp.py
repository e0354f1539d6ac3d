"""Worker: DDP with `broadcast_buffers=True`, two forwards and one backward a step; and a deferred update."""

import sys

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

import batchnorm as bn
from support.processes import join, report


def _train(package: object, rank: int, backend: str) -> list[list[float]]:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3), package.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)
    )
    parallel = DistributedDataParallel(model.double(), broadcast_buffers=True)
    optimizer = torch.optim.SGD(parallel.parameters(), 0.1)
    values = []
    with bn.functional.backend(backend):
        for step in range(3):
            torch.manual_seed(10 * step + rank)
            x = torch.randn(2, 3, 2, 6, 6, dtype=torch.float64) + rank
            loss = parallel(x[0]).square().mean() + parallel(x[1]).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            values.append([loss.item(), *model[0].weight.grad.flatten()[:3].tolist()])
            values.append(model[1].running_mean.tolist() + model[1].running_var.tolist())
            values.append([model[1].num_batches_tracked.item()])
    return values


def _all(rank: int, backend: str) -> dict[str, object]:
    result: dict[str, object] = {"ours": _train(bn, rank, backend), "torch": _train(nn, rank, backend)}
    model = DistributedDataParallel(nn.Sequential(nn.Linear(3, 3), bn.BatchNorm1d(3)))
    with bn.functional.backend(backend), bn.defer_statistics(model) as pending:
        for _ in range(2):
            model(torch.randn(4, 3) + rank).sum().backward()
    pending.commit()
    result["deferred"] = model.module[1].num_batches_tracked.item()
    return result


def main() -> None:
    rank = join()
    report({backend: _all(rank, backend) for backend in sys.argv[1:]})
    distributed.destroy_process_group()


if __name__ == "__main__":
    main()
