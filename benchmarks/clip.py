"""Clipping by global norm and a step: ours does both in one, torch's is `clip_grad_norm_` before its fastest step."""

import argparse
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

import torch_gd
from torch_gd._engine import backend

from .algorithms import ALGORITHMS, Algorithm
from .argument_types import duration, torch_device
from .launches import counted
from .report import RESULTS, add_results_argument, microseconds, publish, table
from .shapes import tiny_workloads, workloads
from .tensors import dtype_name, packed_parameters, release
from .timing import Step, affordable, on_device

MAX_NORM = 1.0
AIM = 1.25  # for torch's time over ours, on large tensors


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.add_argument("--device", type=torch_device, default="cuda", help="cpu only tries the code, on tiny tensors")
    parser.add_argument("--seconds", type=duration, default=1.0, help="for each measurement (default: %(default)s)")
    add_results_argument(parser, "clip", None, " (default on a GPU: benchmarks/results)")


def bytes_an_element(algorithm: Algorithm, itemsize: int) -> dict[str, int]:
    """Return the bytes that each has to move for an element.

    Ours reads the gradient once more than a step without clipping; torch's reads it twice more and writes it once.
    """
    return {
        "ours": (algorithm.least_accesses + 1) * itemsize,
        "torch": (algorithm.least_accesses + 3) * itemsize,
    }


def steps(algorithm: Algorithm, params: list[Tensor]) -> dict[str, Step]:
    """Return our step and torch's over the same tensors, whose values do not change the work."""
    options = algorithm.options
    ours = getattr(torch_gd, algorithm.name)(params, lr=1e-3, clip=torch_gd.ClipByGlobalNorm(MAX_NORM), **options)
    flags = {"fused": True} if algorithm.torch_fuses(params[0].device) else {"foreach": True}
    torchs = algorithm.torchs(**flags)(params)

    def clip_then_step() -> None:
        torch.nn.utils.clip_grad_norm_(params, MAX_NORM, foreach=True)
        torchs.step()

    return {"ours": ours.step, "torch": clip_then_step}


def rows(device: torch.device, seconds: float) -> list[dict[str, Any]]:
    """Return the figures of every workload, dtype and algorithm."""
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        loads = (tiny_workloads if device.type == "cpu" else workloads)(dtype.itemsize)
        pairs = [(load, algorithm) for load in loads for algorithm in ALGORITHMS]
        for load, algorithm in tqdm(pairs, desc=f"clip {dtype}", leave=False):
            params = packed_parameters(loads[load], dtype, device)
            times = {}
            for name, step in steps(algorithm, params).items():
                step()
                step()
                times[name] = on_device([step], device, affordable([step], device, seconds))
                if name == "ours":
                    with counted() as launches:
                        step()
            found.append(
                {"workload": load, "algorithm": algorithm.label, "dtype": dtype_name(dtype)}
                | {name: asdict(time) for name, time in times.items()}
                | {"ratio": times["torch"].median / times["ours"].median}
                | {"launches": dict(launches), "bytes": bytes_an_element(algorithm, dtype.itemsize)}
            )
            del params
            release(device)
    return found


def markdown(found: list[dict[str, Any]]) -> str:
    """Return the figures as a table."""
    header = ["workload", "dtype", "optimizer", "ours µs", "torch µs", "torch/ours", "bytes/element ours", "torch"]
    lines = [
        [
            row["workload"],
            row["dtype"],
            row["algorithm"],
            microseconds(row["ours"]["median"]),
            microseconds(row["torch"]["median"]),
            f"{row['ratio']:.2f}",
            str(row["bytes"]["ours"]),
            str(row["bytes"]["torch"]),
        ]
        for row in found
    ]
    return table(header, lines)


def run(arguments: argparse.Namespace) -> None:
    """Measure, print the table and write the results."""
    device = arguments.device
    if device.type == "cuda" and (not torch.cuda.is_available() or backend.launch is None):
        raise SystemExit("`clip` needs a GPU and Triton; --device cpu runs it over tiny tensors to see that it works")
    if device.type == "cpu" and arguments.results is None:
        raise SystemExit("figures of tiny tensors on a CPU are no results: name a folder with --results")
    found = rows(device, arguments.seconds)
    text = f"{markdown(found)}\n\nMedians; clipping by global norm and one step, gradients where they are. Aim: {AIM}."
    publish(arguments.results or RESULTS, "clip", f"python -m benchmarks clip --device {device}", found, text)
