"""What `test_distributed.py` runs in real process groups: `python worlds.py WORLD FOLDER`, a line of JSON a case.

A case is a function that all ranks call at once. It talks to the other ranks first and asserts last, so that a failure
leaves nobody waiting; any other error than a failed assertion ends the world.
"""

import json
import os
import sys
import traceback
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

from conftest import WithoutKernels  # first, since it decides whether Triton interprets

# isort: split
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from sharded import Drive, Spread, compare, ddp, fsdp, fsdp_tp, hsdp, partly, tp, training
from sharded_checkpoints import checkpoints, checkpoints_of_four
from sharded_clipping import clipping_cases, clipping_on_a_gpu, clipping_on_four, clipping_on_kernels
from sharded_diagnostics import diagnostics
from sharded_failures import failures, invariants
from sharded_layers import layer_cases, layers_on_kernels
from sharded_precision import precisions
from sharded_release import releases, releases_of_four
from sharded_trainers import trainers
from sharded_training import Halve, at_step, changes, options, partial_sums, scaled
from sharded_zero import sharing

import torch_gd
from torch_gd._engine import backend
from torch_gd.triton_kernels.runtime import Runtime, use

TIMEOUT = timedelta(minutes=3)  # of a rank that waits for one that has failed
Case = Callable[[], Any]
OPTIMIZERS: list[tuple[str, dict[str, Any]]] = [
    ("SGD", {}),
    ("SGD", {"momentum": 0.9}),
    ("NAG", {}),
    ("Adagrad", {"eps": 1e-3}),
    ("RMSprop", {"momentum": 0.9, "centered": True, "eps": 1e-3}),
    ("Adam", {"amsgrad": True, "eps": 1e-3}),
    ("AdamW", {"eps": 1e-3}),
]
LAYERWISE: list[tuple[str, dict[str, Any]]] = [("LAMB", {"eps": 1e-3}), ("LARS", {"trust_coeff": 0.5})]


def trained(spread: Callable[[], Spread], name: str, options: dict[str, Any]) -> None:
    """Training is training in one process, and our step has seen shards where there are any."""
    table = str(torch_gd.explain(compare(spread(), training(name, **options))))
    assert ("shards of DTensors" in table) == (spread is not ddp), table
    assert "tensor subclass" not in table, table
    assert ("our kernels" in table) == backend.serves(torch.empty(1)), table


def matrix(*spreads: Callable[[], Spread]) -> dict[str, Case]:
    """Return each optimizer under each way to spread a model, by default, and under three of them fused."""
    return {
        " ".join([spread.__name__, name, *(o for o in options if o != "eps"), *fused]): partial(
            trained, spread, name, {**options, **fused}
        )
        for spread in spreads
        for name, options in OPTIMIZERS
        for fused in ({}, {"fused": True})
        if not fused or (name != "RMSprop" and spread in (fsdp, tp, fsdp_tp))
    }


def family() -> dict[str, Case]:
    """Return the other optimizers, under one way to spread a model."""
    names = ("Adadelta", "Adamax", "Lion", "NAdam", "RAdam", "SGDW")
    return {f"fsdp {name}": partial(trained, fsdp, name, {"clip": 0.05}) for name in names}


def layerwise(*spreads: Callable[[], Spread]) -> dict[str, Case]:
    """Return the optimizers that need norms of whole tensors."""
    return {
        f"{spread.__name__} {name}": partial(trained, spread, name, options)
        for spread in spreads
        for name, options in LAYERWISE
    }


def compare_new(drive: Drive, spread: Callable[[], Spread] = fsdp) -> None:
    """Compare training of a newly spread model."""
    compare(spread(), drive)


def on_kernels(case: Case) -> Case:
    """Return the case with our kernels, interpreted on the CPU."""

    def run() -> None:
        with use(Runtime()):
            case()

    return run


def few_on_kernels() -> dict[str, Case]:
    """Return a small sample of cases on our kernels, which take a second each."""
    chosen: dict[str, Case] = {
        "fsdp AdamW": partial(trained, fsdp, "AdamW", {"eps": 1e-3}),
        "tp SGD": partial(trained, tp, "SGD", {"momentum": 0.9}),
        "capturable": partial(compare_new, training("RMSprop", at_step(1, partial_sums), capturable=True)),
        "clip by value and L1": partial(compare_new, training("SGD", clip=torch_gd.ClipByValue(1e-3), l1=0.01)),
        "GradScaler": partial(compare_new, partial(scaled, fused=True)),
        "a policy of the user's": partial(compare_new, training("SGD", clip=Halve(1e-3))),
        **clipping_on_kernels(),
        **layers_on_kernels(),
    }
    return {f"our kernels: {what}": on_kernels(case) for what, case in chosen.items()}


WORLDS: dict[int, dict[str, Case]] = {
    1: {  # with NCCL, where there is a GPU
        **matrix(fsdp, tp),
        **{what: partial(compare_new, drive) for what, drive in options().items()},
        **clipping_on_a_gpu(),
    },
    2: {
        **matrix(ddp, fsdp, tp, partly),
        **family(),
        **layerwise(fsdp, tp, partly),
        **{what: partial(compare_new, *row) for what, row in changes().items()},
        **{what: partial(compare_new, drive) for what, drive in options().items()},
        **clipping_cases(),
        **layer_cases(),
        **failures(),
        **invariants(),
        **few_on_kernels(),
        **diagnostics(2),
        **checkpoints(),
        **precisions(),
        **sharing(),
        **trainers(),
        **releases(),
    },
    4: {
        **matrix(hsdp, fsdp_tp),
        **layerwise(hsdp, fsdp_tp),
        **clipping_on_four(),
        **diagnostics(4),
        **checkpoints_of_four(),
        **releases_of_four(),
    },
}


def run_rank(rank: int, world: int, folder: Path) -> None:
    """Run every case as one rank, and write what came of it."""
    os.chdir(folder)
    on_gpu = world == 1 and torch.cuda.is_available()
    dist.init_process_group("nccl" if on_gpu else "gloo", f"file://{folder / 'store'}", TIMEOUT, world, rank)
    with (folder / str(rank)).open("w") as results, use(Runtime() if on_gpu else WithoutKernels()):
        for name, case in WORLDS[world].items():
            error, go_on = "", True
            try:
                case()
            except (Exception, pytest.fail.Exception) as problem:
                failed = isinstance(problem, (AssertionError, pytest.fail.Exception))
                error, go_on = traceback.format_exc(), failed
            print(json.dumps([name, error]), file=results, flush=True)
            if not go_on:
                os._exit(1)  # whoever waits for this rank learns of it at once
    dist.destroy_process_group()


if __name__ == "__main__":
    count, folder = int(sys.argv[1]), Path(sys.argv[2])
    mp.spawn(run_rank, (count, folder), count)
