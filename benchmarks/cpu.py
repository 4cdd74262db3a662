"""Full steps on the CPU beside the best that torch has for the same optimizer, and beside its default."""

import argparse
from collections.abc import Callable
from dataclasses import asdict
from itertools import chain, product
from pathlib import Path
from random import Random
from typing import Any

import torch
from tqdm import tqdm

from torch_gd._engine import backend

from .algorithms import ALGORITHMS, Algorithm
from .report import RESULTS, microseconds, table, write
from .timing import Spread, interleaved, spread

# (tensors, elements each): rounds, and how many times over with new tensors. Where in memory a large tensor happens to
# lie makes one and the same kernel faster or slower by several per cent.
SIZES = {(1, 1): (40, 1), (300, 1): (20, 1), (300, 4096): (10, 2), (1, 4_000_000): (10, 8)}
BURST = 5
LIMIT = 1.05


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--quick", action="store_true", help="one round, a tenth of the elements")
    parser.add_argument("--threads", type=int, help="torch.set_num_threads; default: one, then torch's own")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder for cpu.json and cpu.md")


def measure(algorithm: Algorithm, count: int, elements: int, rounds: int, draws: int) -> dict[str, Spread]:
    """Times ours and everything that torch has, each on tensors of its own, interleaved."""
    times: dict[str, list[float]] = {}
    for draw in range(draws):
        for name, bursts in interleaved(steps_of(algorithm, count, elements, Random(draw)), rounds, BURST).items():
            times.setdefault(name, []).extend(chain.from_iterable(bursts))
    return {name: spread(samples) for name, samples in times.items()}


def steps_of(algorithm: Algorithm, count: int, elements: int, order: Random) -> dict[str, Callable[[], object]]:
    """Ours and each of torch's, on new tensors, allocated in random order: the first get what the last draw freed."""
    flags: dict[str, dict[str, bool]] = {
        "fused": {"fused": True},
        "foreach": {"foreach": True},
        "for-loop": {"foreach": False},
        "default": {},
    }
    if not algorithm.torch_fuses(torch.device("cpu")):
        del flags["fused"]
    makers = {"ours": algorithm.ours} | {name: algorithm.torchs(**chosen) for name, chosen in flags.items()}
    steps: dict[str, Callable[[], object]] = {}
    for name, make in order.sample(list(makers.items()), len(makers)):
        params = [torch.randn(elements).requires_grad_() for _ in range(count)]
        for p in params:
            p.grad = torch.randn(elements)
        steps[name] = make(params).step
    return steps


def rows(sizes: dict[tuple[int, int], tuple[int, int]], threads: list[int]) -> list[dict[str, Any]]:
    found = []
    configurations = list(product(threads, sizes, ALGORITHMS))
    for number, (count, elements), algorithm in tqdm(configurations, desc="cpu", leave=False):
        torch.set_num_threads(number)
        times = measure(algorithm, count, elements, *sizes[count, elements])
        best = min((name for name in times if name not in ("ours", "default")), key=lambda name: times[name].median)
        found.append(
            {"algorithm": algorithm.label, "threads": number, "tensors": count, "elements": elements, "best": best}
            | {"ratio": times["ours"].median / times[best].median}
            | {name: asdict(time) for name, time in times.items()}
        )
    return found


def markdown(found: list[dict[str, Any]]) -> str:
    header = [
        "threads",
        "tensors",
        "optimizer",
        "ours µs",
        "p10–p90",
        "torch's best µs",
        "which",
        "its default µs",
        "ours/best",
        "",
    ]
    lines = [
        [
            str(row["threads"]),
            f"{row['tensors']:,} × {row['elements']:,}",
            row["algorithm"],
            microseconds(row["ours"]["median"]),
            f"{microseconds(row['ours']['p10'])}–{microseconds(row['ours']['p90'])}",
            microseconds(row[row["best"]]["median"]),
            row["best"],
            microseconds(row["default"]["median"]),
            f"{row['ratio']:.2f}",
            f"over {LIMIT}" if row["ratio"] > LIMIT else "",
        ]
        for row in found
    ]
    return table(header, lines)


def run(arguments: argparse.Namespace) -> None:
    """Prints the table and writes the results."""
    if backend.interpreted():
        raise SystemExit("`cpu` times torch's own kernels: unset TRITON_INTERPRET")
    default = torch.get_num_threads()
    threads = [arguments.threads] if arguments.threads is not None else list(dict.fromkeys([1, default]))
    sizes = {(n, max(elements // 10, 1)): (1, 1) for n, elements in SIZES} if arguments.quick else SIZES
    found = rows(sizes, threads)
    torch.set_num_threads(default)
    command = "python -m benchmarks cpu" + (f" --threads {arguments.threads}" if arguments.threads is not None else "")
    text = (
        f"{markdown(found)}\n\nWhole steps, float32; medians; bursts of {BURST} steps, interleaved; each on tensors of "
        f"its own; the largest drawn {max(draws for _, draws in sizes.values())} times over."
    )
    print(text)
    write(arguments.results, "cpu", command, found, text)
