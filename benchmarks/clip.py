"""Clipping by global norm and a step: ours does both in one, theirs is `clip_grad_norm_` before their fastest step."""

import argparse
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

import torch_gd
from torch_gd._engine import backend

from .algorithms import ALGORITHMS, Algorithm, why_no_timm
from .argument_types import duration, torch_device
from .gpu_report import LARGE
from .launches import counted
from .report import RESULTS, add_results_argument, microseconds, one_line, publish, table
from .shapes import tiny_workloads, workloads
from .tensors import dtype_name, packed_parameters, release
from .timing import Step, affordable, on_device

MAX_NORM = 1.0
QUICK = ("SGD momentum", "AdamW")
AIM = 1.25  # for their time over ours, on large tensors


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.add_argument("--quick", action="store_true", help=f"{' and '.join(QUICK)} only")
    parser.add_argument("--device", type=torch_device, default="cuda", help="cpu only tries the code, on tiny tensors")
    parser.add_argument("--seconds", type=duration, default=1.0, help="for each measurement (default: %(default)s)")
    add_results_argument(parser, "clip", None, " (default on a GPU: benchmarks/results)")


def bytes_an_element(algorithm: Algorithm, itemsize: int) -> dict[str, int]:
    """Return the bytes that each has to move for an element.

    Ours reads the gradient once more than a step without clipping; `clip_grad_norm_` reads it twice and writes it once.
    """
    return {
        "ours": (algorithm.least_accesses + 1) * itemsize,
        "theirs": (algorithm.least_accesses + 3) * itemsize,
    }


def steps(algorithm: Algorithm, params: list[Tensor]) -> dict[str, Step]:
    """Return our step and torch's, or timm's, over the same tensors, whose values do not change the work."""
    options = algorithm.options
    ours = getattr(torch_gd, algorithm.name)(params, lr=1e-3, clip=torch_gd.ClipByGlobalNorm(MAX_NORM), **options)
    _, *others = algorithm.makers(params[0].device, "fused", "foreach").values()
    if not others:
        raise RuntimeError(f"timm: {why_no_timm()}")
    theirs = others[0](params)

    def clip_then_step() -> None:
        torch.nn.utils.clip_grad_norm_(params, MAX_NORM, foreach=True)
        theirs.step()

    return {"ours": ours.step, "theirs": clip_then_step}


def measure(algorithm: Algorithm, params: list[Tensor], seconds: float) -> dict[str, Any]:
    """Time ours and theirs over the same parameters, and count our launches."""
    device = params[0].device
    times, launches = {}, {}
    for name, step in steps(algorithm, params).items():
        step()
        with counted() as launches[name]:
            step()
        times[name] = on_device([step], device, affordable([step], device, seconds))
    found: dict[str, Any] = {name: asdict(time) for name, time in times.items()}
    return found | {"ratio": times["theirs"].median / times["ours"].median, "launches": dict(launches["ours"])}


def rows(quick: bool, device: torch.device, seconds: float) -> list[dict[str, Any]]:
    """Return the figures of every workload, dtype and algorithm, or why there are none; one failure ends no other."""
    algorithms = [a for a in ALGORITHMS if not quick or a.label in QUICK]
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        loads = (tiny_workloads if device.type == "cpu" else workloads)(dtype.itemsize)
        pairs = [(load, algorithm) for load in loads for algorithm in algorithms]
        for load, algorithm in tqdm(pairs, desc=f"clip {dtype}", leave=False):
            row: dict[str, Any] = {"workload": load, "algorithm": algorithm.label, "dtype": dtype_name(dtype)}
            row["bytes"] = bytes_an_element(algorithm, dtype.itemsize)
            try:
                row |= measure(algorithm, packed_parameters(loads[load], dtype, device), seconds)
            except Exception as error:
                row["failed"] = one_line(error)
            found.append(row)
            release(device)
    return found


def markdown(found: list[dict[str, Any]]) -> str:
    """Return the figures as a table, and below it what failed and how large tensors compare."""
    header = ["workload", "dtype", "optimizer", "ours µs", "theirs µs", "theirs/ours", "bytes/element ours", "theirs"]
    lines = []
    for row in found:
        figures = ["failed", "", ""]
        if "failed" not in row:
            figures = [*(microseconds(row[name]["median"]) for name in ("ours", "theirs")), f"{row['ratio']:.2f}"]
        counts = [str(row["bytes"][name]) for name in ("ours", "theirs")]
        lines.append([row["workload"], row["dtype"], row["algorithm"], *figures, *counts])
    said = ["Medians; clipping by global norm and one step, gradients where they are."]
    said += [
        f"- {row['workload']} {row['dtype']} {row['algorithm']}: {row['failed']}" for row in found if "failed" in row
    ]
    large = [row["ratio"] for row in found if row["workload"] in LARGE and "ratio" in row]
    if large:
        said.append(f"Large tensors: their time is {min(large):.2f} to {max(large):.2f} times ours (aim: {AIM}).")
    return "\n".join([table(header, lines), "", *said])


def run(arguments: argparse.Namespace) -> None:
    """Measure, print the table and write the results."""
    device = arguments.device
    if device.type == "cuda" and (not torch.cuda.is_available() or backend.launch is None):
        raise SystemExit("`clip` needs a GPU and Triton; --device cpu runs it over tiny tensors to see that it works")
    if device.type == "cpu" and arguments.results is None:
        raise SystemExit("figures of tiny tensors on a CPU are no results: name a folder with --results")
    found = rows(arguments.quick, device, arguments.seconds)
    command = f"python -m benchmarks clip{' --quick' if arguments.quick else ''} --device {device}"
    publish(arguments.results or RESULTS, "clip", command, found, markdown(found))
