"""Under which conditions a study ran: what its numbers depend on, and what its times depend on."""

import datetime
import os
import platform
from collections.abc import Mapping
from typing import Any

import torch

import batchnorm
from batchnorm.bench.conditions import processor
from batchnorm.study.data import Images
from batchnorm.study.experiment import Experiment, Plan


def header(plan: Plan, images: Images) -> dict[str, Any]:
    """Return everything under which runs may stand in one file: declarations, data, software, processor."""
    return {
        "settings": {
            "device": plan.device,
            "data": images.describe(),
            "data_fingerprint": images.fingerprint,
            "experiments": {experiment.name: declared(experiment) for experiment in plan.experiments},
        },
        "environment": {
            "torch": torch.__version__,
            "batchnorm": batchnorm.__version__,
            "python": platform.python_version(),
            "processor": processor(),
            "accelerator": torch.cuda.get_device_name() if plan.device.startswith("cuda") else None,
        },
    }


def declared(experiment: Experiment) -> dict[str, Any]:
    """Return the declaration of an experiment as plain values."""
    return {
        "condition": experiment.condition,
        "rates": list(experiment.rates),
        "sweep_seeds": experiment.sweep_seeds,
        "seeds": experiment.seeds,
        "steps": experiment.steps,
        "evaluate_every": experiment.evaluate_every,
        "batch_size": experiment.batch_size,
        "momentum": experiment.momentum,
        "target": experiment.target,
        "rules": {claim.name: claim.rule.describe() for claim in experiment.claims},
    }


def session(workers: int) -> Mapping[str, Any]:
    """Return what may differ between two starts of the same study."""
    return {
        "started": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "workers": workers,
        "threads": 1,
        "cores": available_cores(),
        "system": f"{platform.system()} {platform.machine()}",
    }


def available_cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
