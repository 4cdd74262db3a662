"""Host time of a step: ours up to the launch, beside torch's, over the same one-element tensors on the CPU."""

import argparse
from dataclasses import asdict
from itertools import chain
from typing import Any

import torch
from tqdm import tqdm

from torch_gd._engine import backend
from torch_gd.triton_kernels import runtime

from . import host_dtensor
from .algorithms import BY_LABEL, Algorithm
from .launches import WithoutLaunches
from .report import RESULTS, add_results_argument, microseconds, publish, span, table
from .tensors import separate_parameters
from .timing import CPU, Spread, interleaved, spread

COUNTS = {1: 100, 30: 60, 300: 20, 3000: 5}  # number of tensors: rounds
BURST = 10
ALGORITHMS = [
    BY_LABEL["AdamW"],
    Algorithm("AdamW fused=True", "AdamW", 2, {"fused": True}, {}),  # keeps its step counters on the device
    *(BY_LABEL[label] for label in ("SGD momentum", "RMSprop", "Adagrad")),
]
AIMS = {("AdamW", "fused"): 0.2, ("SGD momentum", "fused"): 0.4, ("RMSprop", "foreach"): 0.1}  # ratios at 300 tensors


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.add_argument("--quick", action="store_true", help="a twentieth of the rounds, up to 300 tensors")
    parser.add_argument("--dtensor", action="store_true", help=f"{host_dtensor.__doc__} Names its files host_dtensor.")
    add_results_argument(parser, "host", RESULTS)


def measure(algorithm: Algorithm, count: int, rounds: int) -> dict[str, dict[str, Spread]]:
    """Time ours, torch's fused where there is one, and its foreach step.

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
    counts = {n: max(rounds // 20, 2) for n, rounds in COUNTS.items() if n <= 300} if quick else COUNTS
    configurations = [(algorithm, n) for n in counts for algorithm in ALGORITHMS]
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
    header = ["tensors", "optimizer", "ours µs", "p10–p90", "fused µs", "foreach µs", "ours/fused", "ours/foreach"]
    header += ["first of a burst: ours µs", "ours/fused", "ours/foreach", "aim at 300"]
    lines = []
    for row in found:
        cells = [f"{row['tensors']:,}", row["algorithm"]]
        for kind in ("all", "first"):
            ours, *theirs = (row.get(name, {}).get(kind) for name in ("ours", "fused", "foreach"))
            cells.append(microseconds(ours["median"]))
            if kind == "all":
                cells.append(span(ours))
                cells += ["—" if their is None else microseconds(their["median"]) for their in theirs]
            cells += ["—" if their is None else f"{ours['median'] / their['median']:.2f}" for their in theirs]
        aim = next((f"{aim} of {name}" for (label, name), aim in AIMS.items() if label == row["algorithm"]), "")
        lines.append([*cells, aim if row["tensors"] == 300 else ""])
    return table(header, lines)


def run(arguments: argparse.Namespace) -> None:
    """Measure, print the table and write the results."""
    if backend.launch is None or backend.interpreted():
        raise SystemExit("`host` needs Triton, and TRITON_INTERPRET unset")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # one-element tensors leave a second thread nothing to do
    if arguments.dtensor:
        host_dtensor.run(ALGORITHMS, arguments.quick, arguments.results)
    else:
        _run_plain(arguments)
    torch.set_num_threads(threads)


def _run_plain(arguments: argparse.Namespace) -> None:
    found = rows(arguments.quick)
    text = (
        f"{markdown(found)}\n\nOurs is everything up to the launch, which a stand-in takes and does not make; "
        "uploads to a GPU and the launcher come on top. Torch's are whole steps on the CPU, with its dispatch "
        f"for each tensor and one element's arithmetic. One thread; medians; bursts of {BURST} steps, interleaved."
    )
    publish(arguments.results, "host", "python -m benchmarks host", found, text)
