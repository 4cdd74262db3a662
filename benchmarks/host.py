"""Host time of a step: ours up to the launch, beside torch's over the same one-element tensors on the CPU."""

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from torch_gd import backend

from .algorithms import BY_LABEL, Algorithm
from .launches import none_made
from .report import RESULTS, microseconds, table, write
from .timing import Spread, interleaved

COUNTS = {1: 300, 30: 200, 300: 100, 3000: 20}  # tensors: rounds
LABELS = ["AdamW", "SGD momentum", "RMSprop", "Adagrad"]
AIMS = {("AdamW", "fused"): 0.2, ("SGD momentum", "fused"): 0.4, ("RMSprop", "foreach"): 0.1}  # at 300 tensors


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--quick", action="store_true", help="a tenth of the rounds, up to 300 tensors")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder for host.json and host.md")


def measure(algorithm: Algorithm, count: int, rounds: int) -> dict[str, Spread]:
    """Times ours, fused where torch has it, and foreach, interleaved."""
    params = [torch.randn(1).requires_grad_() for _ in range(count)]
    for p in params:
        p.grad = torch.randn(1)
    steps = {"ours": algorithm.ours(params).step}
    if algorithm.torch_has_fused:
        steps["fused"] = algorithm.torchs(fused=True)(params).step
    steps["foreach"] = algorithm.torchs(foreach=True)(params).step
    with none_made() as kernels:
        times = interleaved(steps, rounds)
    addressed = kernels["update_kernel"].last["table"][2:4].tolist()
    if addressed != [[p.data_ptr() for p in params], [p.grad.data_ptr() for p in params if p.grad is not None]]:
        raise AssertionError("the launch was handed other addresses than the tensors'")
    return times


def rows(quick: bool) -> list[dict[str, Any]]:
    counts = {n: max(rounds // 10, 3) for n, rounds in COUNTS.items() if n <= 300} if quick else COUNTS
    configurations = [(label, n) for n in counts for label in LABELS]
    found = []
    for label, n in tqdm(configurations, desc="host", leave=False):
        times = measure(BY_LABEL[label], n, counts[n])
        found.append({"algorithm": label, "tensors": n} | {name: asdict(time) for name, time in times.items()})
    return found


def markdown(found: list[dict[str, Any]]) -> str:
    header = [
        "tensors",
        "algorithm",
        "ours µs",
        "p10–p90",
        "fused µs",
        "foreach µs",
        "ours/fused",
        "ours/foreach",
        "aim",
    ]
    lines = []
    for row in found:
        ours = row["ours"]
        theirs = [row.get("fused"), row["foreach"]]
        aim = next((f"{aim} of {kind}" for (label, kind), aim in AIMS.items() if label == row["algorithm"]), "")
        lines.append(
            [
                f"{row['tensors']:,}",
                row["algorithm"],
                microseconds(ours["median"]),
                f"{microseconds(ours['p10'])}–{microseconds(ours['p90'])}",
                *("—" if their is None else microseconds(their["median"]) for their in theirs),
                *("—" if their is None else f"{ours['median'] / their['median']:.2f}" for their in theirs),
                aim if row["tensors"] == 300 else "",
            ]
        )
    return table(header, lines)


def run(arguments: argparse.Namespace) -> None:
    """Prints the table and writes the results."""
    if backend.launch is None or backend.interpreted():
        raise SystemExit("`host` needs Triton, and TRITON_INTERPRET unset")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # one-element tensors: a second thread could only wait
    found = rows(arguments.quick)
    text = (
        f"{markdown(found)}\n\nOurs is everything up to the launch, which a no-op takes and checks; uploads to a GPU "
        "and the launcher come on top. Torch's are whole steps on the CPU: its per-tensor dispatch and one element's "
        "arithmetic. One thread; medians, rounds interleaved."
    )
    print(text)
    write(arguments.results, "host", "python -m benchmarks host", found, text)
    torch.set_num_threads(threads)
