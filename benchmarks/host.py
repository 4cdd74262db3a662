"""Host time of a step: ours up to the launch, beside torch's or timm's, over one-element tensors on the CPU."""

import argparse
from dataclasses import asdict
from itertools import chain
from typing import Any

import torch
from tqdm import tqdm

from torch_gd._engine import backend
from torch_gd.triton_kernels import runtime

from . import host_dtensor
from .algorithms import ALGORITHMS, BY_LABEL, Algorithm, without_timm
from .launches import WithoutLaunches
from .report import RESULTS, add_results_argument, microseconds, publish, span, table
from .tensors import separate_parameters
from .timing import CPU, Spread, interleaved, spread

COUNTS = {1: 100, 30: 60, 300: 20, 3000: 5}  # number of tensors: rounds
BURST = 10
ON_DEVICE = Algorithm("AdamW fused=True", "AdamW", 2, {"fused": True}, {})  # keeps its step counters on the device
DTENSORS = [BY_LABEL["AdamW"], ON_DEVICE, *(BY_LABEL[label] for label in ("SGD momentum", "RMSprop", "Adagrad"))]
AIMS = {"AdamW": 0.2, "SGD momentum": 0.4, "RMSprop": 0.1}  # ratios at 300 tensors


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.add_argument("--quick", action="store_true", help="a twentieth of the rounds, up to 30 tensors")
    parser.add_argument("--dtensor", action="store_true", help=f"{host_dtensor.__doc__} Names its files host_dtensor.")
    add_results_argument(parser, "host", RESULTS)


def measure(algorithm: Algorithm, count: int, rounds: int) -> dict[str, dict[str, Spread]]:
    """Time ours, and torch's or timm's fused and foreach steps, where there are such.

    Returns:
        For each the spread of all calls, and that of the first call of each burst, which finds cold caches.
    """
    params = separate_parameters([(1,)] * count)
    steps = {name: make(params).step for name, make in algorithm.makers(CPU, "fused", "foreach").items()}
    with runtime.use(WithoutLaunches()) as machine:
        bursts = interleaved(steps, rounds, BURST)
    addressed = machine.arguments("update_kernel")["table"][2:4].tolist()
    if addressed != [[p.data_ptr() for p in params], [p.grad.data_ptr() for p in params if p.grad is not None]]:
        raise AssertionError("the launch got addresses that are not the tensors'")
    return {
        name: {"all": spread(list(chain.from_iterable(times))), "first": spread([first for first, *_ in times])}
        for name, times in bursts.items()
    }


def rows(quick: bool) -> list[dict[str, Any]]:
    """Return the figures of every number of tensors and algorithm."""
    counts = {n: max(rounds // 20, 2) for n, rounds in COUNTS.items() if n <= 30} if quick else COUNTS
    configurations = [(algorithm, n) for n in counts for algorithm in (*ALGORITHMS, ON_DEVICE)]
    found = []
    for algorithm, n in tqdm(configurations, desc="host", leave=False):
        times = measure(algorithm, n, counts[n])
        found.append(
            {"algorithm": algorithm.label, "tensors": n}
            | {name: {kind: asdict(one) for kind, one in kinds.items()} for name, kinds in times.items()}
        )
    return found


def markdown(found: list[dict[str, Any]]) -> str:
    """Return the figures as a table."""
    header = ["tensors", "optimizer", "ours µs", "p10–p90", "best other µs", "which", "ours/best"]
    header += ["first of a burst: ours µs", "ours/best", "aim at 300"]
    lines = []
    for row in found:
        ours = row["ours"]
        theirs = {name: row[name] for name in row if name.startswith(("torch", "timm"))}
        best = min(theirs, key=lambda name: theirs[name]["all"]["median"], default=None)
        all_ratio, first_ratio = (
            "—" if best is None else f"{ours[kind]['median'] / theirs[best][kind]['median']:.2f}"
            for kind in ("all", "first")
        )
        lines.append(
            [
                *(f"{row['tensors']:,}", row["algorithm"], microseconds(ours["all"]["median"]), span(ours["all"])),
                *(("—", "—") if best is None else (microseconds(theirs[best]["all"]["median"]), best)),
                *(all_ratio, microseconds(ours["first"]["median"]), first_ratio),
                str(AIMS.get(row["algorithm"], "")) if row["tensors"] == 300 else "",
            ]
        )
    return table(header, lines)


def run(arguments: argparse.Namespace) -> None:
    """Measure, print the table and write the results."""
    if backend.launch is None or backend.interpreted():
        raise SystemExit("`host` needs Triton, and TRITON_INTERPRET unset")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # one-element tensors leave a second thread nothing to do
    if arguments.dtensor:
        host_dtensor.run(DTENSORS, arguments.quick, arguments.results)
    else:
        _run_plain(arguments)
    torch.set_num_threads(threads)


def _run_plain(arguments: argparse.Namespace) -> None:
    found = rows(arguments.quick)
    text = (
        f"{markdown(found)}\n\nOurs is everything up to the launch, which a stand-in takes and does not make; "
        "uploads to a GPU and the launcher come on top. The others' are whole steps on the CPU, with the dispatch "
        f"for each tensor and one element's arithmetic. One thread; medians; bursts of {BURST} steps, interleaved."
        f"{without_timm()}"
    )
    publish(arguments.results, "host", "python -m benchmarks host", found, text)
