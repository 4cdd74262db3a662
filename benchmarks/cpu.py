"""Full steps on the CPU, beside the best that torch, or else timm, has for the same optimizer, and its default."""

import argparse
from dataclasses import asdict
from functools import partial
from itertools import chain, product
from random import Random
from typing import Any

import torch
from tqdm import tqdm

from torch_gd._engine import backend

from .algorithms import ALGORITHMS, Algorithm, without_timm
from .argument_types import positive
from .report import RESULTS, add_results_argument, microseconds, publish, span, table
from .tensors import separate_parameters
from .timing import CPU, Spread, Step, over_draws, spread

# (tensors, elements of each): (rounds, draws of new tensors). Only large tensors need several draws: see `over_draws`.
SIZES = {(1, 1): (40, 1), (300, 1): (20, 1), (300, 4096): (10, 2), (1, 4_000_000): (5, 8)}
BURST = 5
LIMIT = 1.05  # ratios above it are marked in the table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.add_argument("--quick", action="store_true", help="one round, a tenth of the tensors and of their elements")
    parser.add_argument("--threads", type=positive, help="torch.set_num_threads (default: one, then torch's own)")
    add_results_argument(parser, "cpu", RESULTS)


def new_steps(algorithm: Algorithm, count: int, elements: int, order: Random) -> dict[str, Step]:
    """Return the step of ours and of each of its counterparts, made in random order, each on new tensors."""
    makers = list(algorithm.makers(CPU).items())
    return {
        name: make(separate_parameters([(elements,)] * count)).step for name, make in order.sample(makers, len(makers))
    }


def measure(algorithm: Algorithm, count: int, elements: int, rounds: int, draws: int) -> dict[str, Spread]:
    """Time ours and each implementation of its counterpart, interleaved."""
    samples = over_draws(partial(new_steps, algorithm, count, elements), draws, rounds, BURST)
    return {name: spread(list(chain.from_iterable(bursts))) for name, bursts in samples.items()}


def rows(sizes: dict[tuple[int, int], tuple[int, int]], threads: list[int]) -> list[dict[str, Any]]:
    """Return the figures of every number of threads, size and algorithm."""
    found = []
    configurations = list(product(threads, sizes, ALGORITHMS))
    for number, (count, elements), algorithm in tqdm(configurations, desc="cpu", leave=False):
        torch.set_num_threads(number)
        times = measure(algorithm, count, elements, *sizes[count, elements])
        row = {"algorithm": algorithm.label, "threads": number, "tensors": count, "elements": elements}
        found.append(row | compared(times) | {name: asdict(time) for name, time in times.items()})
    return found


def compared(times: dict[str, Spread]) -> dict[str, Any]:
    """Return the names of the counterpart's best and default implementation, and the ratio of ours to the best."""
    theirs = [name for name in times if name != "ours"]
    if not theirs:  # timm is not installed
        return {}
    default = next((name for name in theirs if name.endswith("default")), theirs[0])
    best = min((name for name in theirs if name != default or len(theirs) == 1), key=lambda name: times[name].median)
    return {"best": best, "default": default, "ratio": times["ours"].median / times[best].median}


def markdown(found: list[dict[str, Any]]) -> str:
    """Return the figures as a table."""
    header = ["threads", "tensors", "optimizer", "ours µs", "p10–p90", "best other µs", "which", "its default µs"]
    header += ["ours/best", ""]
    lines = []
    for row in found:
        cells = [str(row["threads"]), f"{row['tensors']:,} × {row['elements']:,}", row["algorithm"]]
        cells += [microseconds(row["ours"]["median"]), span(row["ours"])]
        if "best" in row:
            best, default = (microseconds(row[row[name]]["median"]) for name in ("best", "default"))
            mark = f"over {LIMIT}" if row["ratio"] > LIMIT else ""
            lines.append([*cells, best, row["best"], default, f"{row['ratio']:.2f}", mark])
        else:
            lines.append([*cells, *["—"] * 4, ""])
    return table(header, lines)


def run(arguments: argparse.Namespace) -> None:
    """Measure, print the table and write the results."""
    if backend.interpreted():
        raise SystemExit("`cpu` times torch's own kernels: unset TRITON_INTERPRET")
    default = torch.get_num_threads()
    threads = [arguments.threads] if arguments.threads is not None else list(dict.fromkeys([1, default]))
    sizes = {(max(n // 10, 1), max(elements // 10, 1)): (1, 1) for n, elements in SIZES} if arguments.quick else SIZES
    found = rows(sizes, threads)
    torch.set_num_threads(default)
    command = "python -m benchmarks cpu" + (f" --threads {arguments.threads}" if arguments.threads is not None else "")
    text = (
        f"{markdown(found)}\n\nWhole steps, float32; medians; bursts of {BURST} steps, interleaved; each on tensors of "
        f"its own; the largest drawn {max(draws for _, draws in sizes.values())} times over.{without_timm()}"
    )
    publish(arguments.results, "cpu", command, found, text)
