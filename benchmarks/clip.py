"""Clipping by global norm and a step: ours in one, torch's `clip_grad_norm_` before its fastest step."""

import argparse
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

import torch_gd
from torch_gd._engine import backend

from .algorithms import ALGORITHMS, Algorithm
from .gpu import affordable, parameters, release
from .launches import counted
from .report import RESULTS, microseconds, table, write
from .shapes import tiny_workloads, workloads
from .timing import on_device

MAX_NORM = 1.0
AIM = 1.25  # torch's time over ours, on large tensors


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", default="cuda", help="cuda, or cpu: tiny tensors there, to see that all of it runs")
    parser.add_argument("--seconds", type=float, default=1.0, help="for each measurement")
    parser.add_argument("--results", type=Path, help="folder for clip.json and clip.md; on a GPU benchmarks/results")


def bytes_an_element(algorithm: Algorithm, itemsize: int) -> dict[str, int]:
    """Ours reads the gradient once more than a step alone; torch's reads it twice more and writes it once."""
    return {
        "ours": (algorithm.least_accesses + 1) * itemsize,
        "torch": (algorithm.least_accesses + 3) * itemsize,
    }


def steps(algorithm: Algorithm, params: list[Tensor]) -> dict[str, Callable[[], object]]:
    """Both on the same tensors: the work is the same, whatever the values."""
    options = algorithm.options
    ours = getattr(torch_gd, algorithm.name)(params, lr=1e-3, clip=torch_gd.ClipByGlobalNorm(MAX_NORM), **options)
    flags = {"fused": True} if algorithm.torch_fuses(params[0].device) else {"foreach": True}
    torchs = algorithm.torchs(**flags)(params)

    def clip_then_step() -> None:
        torch.nn.utils.clip_grad_norm_(params, MAX_NORM, foreach=True)
        torchs.step()

    return {"ours": ours.step, "torch": clip_then_step}


def rows(device: torch.device, seconds: float) -> list[dict[str, Any]]:
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        loads = (tiny_workloads if device.type == "cpu" else workloads)(dtype.itemsize)
        pairs = [(load, algorithm) for load in loads for algorithm in ALGORITHMS]
        for load, algorithm in tqdm(pairs, desc=f"clip {dtype}", leave=False):
            params = parameters(loads[load], dtype, device)
            times = {}
            for name, step in steps(algorithm, params).items():
                step()
                step()
                times[name] = on_device([step], device, affordable([step], device, seconds))
                if name == "ours":
                    with counted() as launches:
                        step()
            found.append(
                {"workload": load, "algorithm": algorithm.label, "dtype": str(dtype).removeprefix("torch.")}
                | {name: asdict(time) for name, time in times.items()}
                | {"ratio": times["torch"].median / times["ours"].median}
                | {"launches": dict(launches), "bytes": bytes_an_element(algorithm, dtype.itemsize)}
            )
            del params
            release(device)
    return found


def markdown(found: list[dict[str, Any]]) -> str:
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
    """Prints the table and writes the results."""
    device = torch.device(arguments.device)
    if device.type == "cuda" and (not torch.cuda.is_available() or backend.launch is None):
        raise SystemExit("`clip` needs a GPU and Triton; --device cpu runs it over tiny tensors to see that it works")
    if device.type == "cpu" and arguments.results is None:
        raise SystemExit("figures of tiny tensors on a CPU are no results: name a folder with --results")
    found = rows(device, arguments.seconds)
    text = f"{markdown(found)}\n\nMedians; clipping by global norm and one step, gradients where they are. Aim: {AIM}."
    print(text)
    write(arguments.results or RESULTS, "clip", f"python -m benchmarks clip --device {device}", found, text)
