"""Step time over your own model's parameters: ours beside torch's or timm's fused, foreach and default step."""

import argparse
import gc
import shlex
import sys
from dataclasses import asdict
from functools import partial
from itertools import chain
from random import Random
from statistics import median
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from torch_gd._engine import backend

from .algorithms import BY_LABEL, Algorithm, Make, without_timm
from .argument_types import duration, torch_device
from .model import ModelError, load, prepare, trainable
from .report import add_results_argument, microseconds, one_line, publish, span, table
from .tensors import dtype_name, release
from .timing import Bursts, Step, on_device, over_draws, spread

THEIRS = ("fused", "foreach", "default")
DEFAULT = ("AdamW", "SGD momentum")
DTYPES = ("float32", "bfloat16", "float16", "float64")
DRAWS = 4
BURST, LONGEST_BURST = 5, 0.1  # calls, fewer where they would take more than so many seconds
ROUNDS = (3, 100)  # fewest and most, for each draw


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.add_argument(
        "--model",
        required=True,
        metavar="package.module:function",
        help="a function without arguments that returns a module, or an iterable of parameters; "
        "the current directory is importable",
    )
    parser.add_argument(
        "--optimizer",
        nargs="+",
        metavar="NAME",
        choices=BY_LABEL,
        default=list(DEFAULT),
        help=f"of {', '.join(BY_LABEL)} (default: {', '.join(DEFAULT)})",
    )
    found = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument(
        "--device", type=torch_device, default=found, help="cpu, cuda or cuda:N (default here: %(default)s)"
    )
    parser.add_argument("--dtype", choices=DTYPES, help="of parameters and gradients (default: the model's own)")
    parser.add_argument(
        "--seconds", type=duration, default=2.0, help="for each optimizer and implementation (default: %(default)s)"
    )
    add_results_argument(parser, "step", None, " (default: nothing is written)")


def new_steps(makers: dict[str, Make], params: list[Tensor], order: Random) -> dict[str, Step]:
    """Return each implementation's step over the same parameters, their states made in random order."""
    gc.collect()  # frees the optimizers of the last draw: each and its plan refer to each other
    release(params[0].device)
    return {name: make(params).step for name, make in order.sample(list(makers.items()), len(makers))}


def try_out(make: Make, params: list[Tensor]) -> float:
    """Return the seconds of a step, roughly."""
    step = make(params).step
    for _ in range(2):
        step()
    return on_device([step], params[0].device, 3).median


def measure(algorithm: Algorithm, params: list[Tensor], seconds: float) -> tuple[Bursts, dict[str, str]]:
    """Time ours and the implementations of its counterpart, interleaved.

    Returns:
        The bursts of each implementation, and for those that failed the reason.
    """
    device = params[0].device
    makers, failed, longest = algorithm.makers(device, *THEIRS), {}, 0.0
    for name, make in list(makers.items()):
        try:
            longest = max(longest, try_out(make, params))
        except Exception as error:  # an implementation may not take some dtype, or run out of memory
            failed[name] = one_line(error)
            del makers[name]
    if not makers:
        return {}, failed
    burst = max(1, min(BURST, int(LONGEST_BURST / longest)))
    least, most = ROUNDS
    rounds = max(least, min(most, round(seconds / (DRAWS * burst * longest))))
    try:
        return over_draws(partial(new_steps, makers, params), DRAWS, rounds, burst, device), failed
    except RuntimeError as error:  # the states of all may not fit in memory together
        return {}, failed | dict.fromkeys(makers, one_line(error))


def rows(algorithms: list[Algorithm], params: list[Tensor], seconds: float) -> list[dict[str, Any]]:
    """Return the figures of every algorithm and implementation."""
    found = []
    for algorithm in tqdm(algorithms, desc="step", leave=False):
        bursts, failed = measure(algorithm, params, seconds)
        each_round = {name: [median(times) for times in one] for name, one in bursts.items()}
        for name in algorithm.makers(params[0].device, *THEIRS):
            row: dict[str, Any] = {"algorithm": algorithm.label, "implementation": name}
            if name in failed:
                found.append(row | {"failed": failed[name]})
            else:
                row["time"] = asdict(spread(list(chain.from_iterable(bursts[name]))))
                if name != "ours" and "ours" in bursts:
                    ratios = [a / b for a, b in zip(each_round["ours"], each_round[name])]
                    row["ratio"] = asdict(spread(ratios))
                found.append(row)
    return found


def markdown(found: list[dict[str, Any]]) -> str:
    """Return the figures as a table, and below it what failed."""
    header = ["optimizer", "implementation", "µs", "p10–p90", "ours/this", "its p10–p90"]
    lines = []
    for row in found:
        cells = [row["algorithm"], row["implementation"]]
        cells += [microseconds(row["time"]["median"]), span(row["time"])] if "time" in row else ["failed", ""]
        ratio = row.get("ratio")
        cells += [f"{ratio['median']:.2f}", f"{ratio['p10']:.2f}–{ratio['p90']:.2f}"] if ratio else ["", ""]
        lines.append(cells)
    notes = [f"- {row['algorithm']}, {row['implementation']}: {row['failed']}" for row in found if "failed" in row]
    return "\n".join([table(header, lines), *([""] if notes else []), *notes])


def described(params: list[Tensor]) -> str:
    """Return what was timed: how many tensors and elements, which dtypes, where."""
    device = params[0].device
    dtypes = ", ".join(sorted({dtype_name(p.dtype) for p in params}))
    where = f"CPU, threads {torch.get_num_threads()}"
    if device.type == "cuda":
        where = torch.cuda.get_device_name(device)
    return f"{len(params):,} tensors, {sum(p.numel() for p in params):,} elements, {dtypes}; {where}"


def run(arguments: argparse.Namespace) -> None:
    """Measure and print the table; write the results where a folder is given."""
    dtype = None if arguments.dtype is None else getattr(torch, arguments.dtype)
    try:
        params = prepare(trainable(load(arguments.model)), arguments.device, dtype)
    except ModelError as error:
        print(f"python -m benchmarks step: error: {error}", file=sys.stderr)
        raise SystemExit(2) from error
    if backend.interpreted():
        raise SystemExit("`step` times compiled kernels and torch's own: unset TRITON_INTERPRET")
    algorithms = [BY_LABEL[label] for label in dict.fromkeys(arguments.optimizer)]
    note = without_timm() if any(algorithm.library == "timm" for algorithm in algorithms) else ""
    found = rows(algorithms, params, arguments.seconds)
    text = (
        f"{described(params)}\n\n{markdown(found)}\n\nWhole steps, interleaved in random order, over the same "
        "parameters and gradients; medians. A ratio below 1: ours is faster. Ratios are taken round by round; their "
        "spread is that of the rounds." + note
    )
    command = ["python", "-m", "benchmarks", "step", "--model", arguments.model, "--device", str(arguments.device)]
    command += [] if arguments.dtype is None else ["--dtype", arguments.dtype]
    command += ["--seconds", f"{arguments.seconds:g}", "--optimizer", *arguments.optimizer]
    publish(arguments.results, "step", shlex.join(command), found, text)
