"""Worker: FSDP2 (`fully_shard`), in full precision and with bfloat16 parameters beside float32 buffers."""

import sys

import torch
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.utils.checkpoint import checkpoint

import batchnorm as bn
from support.processes import join, report


def _model(package: object, policy: MixedPrecisionPolicy, each_layer: bool) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), package.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 2))
    mesh = init_device_mesh("cpu", (2,))
    if each_layer:
        fully_shard(model[1], mesh=mesh, mp_policy=policy)
    return fully_shard(model, mesh=mesh, mp_policy=policy)


def _train(package: object, policy: MixedPrecisionPolicy, each_layer: bool, checkpointed: bool) -> object:
    model = _model(package, policy, each_layer)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    losses = []
    for step in range(3):
        torch.manual_seed(step)
        x = torch.randn(8, 4)
        y = checkpoint(model, x, use_reentrant=False) if checkpointed else model(x)
        loss = y.float().square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    norm = model[1]
    return {
        "losses": losses,
        "mean": norm.running_mean.tolist(),
        "var": norm.running_var.tolist(),
        "dtype": str(norm.running_mean.dtype),
        "tracked": norm.num_batches_tracked.item(),
        "keys": list(model.state_dict()),
    }


def _outcome(*arguments: object) -> object:
    try:
        return _train(*arguments)
    except RuntimeError as error:
        return {"error": str(error)}


def _all(backend: str) -> dict[str, object]:
    full, low = MixedPrecisionPolicy(), MixedPrecisionPolicy(param_dtype=torch.bfloat16)
    with bn.functional.backend(backend):
        result: dict[str, object] = {
            "ours": _train(bn, full, True, False),
            "ours, checkpointed": _train(bn, full, True, True),
            "torch": _train(nn, full, True, False),
            "ours, whole, bfloat16": _train(bn, low, False, False),
            "ours, each, bfloat16": _train(bn, low, True, False),
        }
    result["torch, bfloat16"] = _outcome(nn, low, True, False)
    return result


def main() -> None:
    join()
    report({backend: _all(backend) for backend in sys.argv[1:]})
    distributed.destroy_process_group()


if __name__ == "__main__":
    main()
