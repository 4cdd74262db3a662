"""Bytes a parameter of AdamW beside other packages', and what each way of storing it does to training."""

import argparse
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from itertools import product
from pathlib import Path
from random import Random
from statistics import mean, stdev
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from tqdm import tqdm

import torch_gd

from .argument_types import positive
from .footprint import MODES, Footprint, footprints
from .report import RESULTS, add_results_argument, publish, table

MIN_ELEMENTS = 32  # of both models nearly all is then stored in the mode that is looked at


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.add_argument("--quick", action="store_true", help="one seed, a few steps")
    parser.add_argument("--seeds", type=positive, default=5, help="runs of each mode (default: %(default)s)")
    add_results_argument(parser, "memory", RESULTS, " and memory.png")


def optimizer_for(model: nn.Module, mode: str, lr: float) -> torch.optim.Optimizer:
    """Return AdamW over a model, whose parameters become of the mode's dtype."""
    dtype, precision = MODES[mode]
    model.to(dtype)
    if precision is not None:
        precision = torch_gd.Precision(precision.weights, precision.states, MIN_ELEMENTS)
    return torch_gd.AdamW(model.parameters(), lr=lr, precision=precision)


def digits(mode: str, seed: int, quick: bool) -> dict[str, float]:
    """Train a small network on handwritten digits; return loss and accuracy on a fifth that it has not seen."""
    from sklearn.datasets import load_digits

    data = load_digits()
    inputs, targets = torch.tensor(data.data, dtype=torch.float32) / 16, torch.tensor(data.target)
    torch.manual_seed(seed)
    order = torch.randperm(len(inputs))
    inputs, targets, held_out = inputs[order], targets[order], len(inputs) // 5
    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
    optimizer = optimizer_for(model, mode, 3e-3)
    dtype = MODES[mode][0]
    for _ in range(1 if quick else 10):
        for batch in torch.split(torch.randperm(len(inputs) - held_out).add_(held_out), 64):
            optimizer.zero_grad()
            loss = cross_entropy(model(inputs[batch].to(dtype)).float(), targets[batch])
            torch.autograd.backward(loss)
            optimizer.step()
    with torch.no_grad():
        found = model.float()(inputs[:held_out])
    right = (found.argmax(1) == targets[:held_out]).float().mean().item()
    return {"loss": cross_entropy(found, targets[:held_out]).item(), "accuracy": right}


def transformer(mode: str, seed: int, quick: bool) -> dict[str, float]:
    """Train the transformer of `examples/train_fsdp.py`, on one rank; return the loss on text that it has not seen."""
    examples = str(Path(__file__).parent.parent / "examples")
    if examples not in sys.path:
        sys.path.append(examples)
    module = import_module("train_fsdp")
    pieces, characters = module.load()
    torch.manual_seed(seed)
    model = module.Transformer(characters)
    optimizer = optimizer_for(model, mode, 3e-3)
    held_out, draw = pieces[-6400::100], Random(seed)
    for _ in range(2 if quick else 40):
        batch = pieces[draw.choices(range(len(pieces) - 6500), k=16)]
        optimizer.zero_grad()
        model(batch).backward()
        optimizer.step()
    with torch.no_grad():
        return {"loss": model.float()(held_out).item()}


TASKS: dict[str, Callable[[str, int, bool], dict[str, float]]] = {"digits": digits, "transformer": transformer}


def quality(seeds: int, quick: bool) -> Iterator[dict[str, Any]]:
    """Yield loss, and accuracy where there is one, of each task and mode: the means, and the spread over seeds."""
    for task, mode in tqdm(list(product(TASKS, MODES)), desc="memory", leave=False):
        runs = [TASKS[task](mode, seed, quick) for seed in range(seeds)]
        row: dict[str, Any] = {"task": task, "mode": mode, "seeds": seeds}
        for key in runs[0]:
            values = [run[key] for run in runs]
            row[key] = {"mean": mean(values), "spread": stdev(values) if seeds > 1 else 0.0, "values": values}
        yield row


def tables(kept: list[Footprint], found: list[dict[str, Any]]) -> str:
    """Return both tables."""
    cells = [
        [row.package, row.setting, f"{row.weight:g}", f"{row.states:.4g}", f"{row.gradient:g}", f"{row.total:.4g}"]
        + [row.source or "counted"]
        for row in kept
    ]
    header = ["AdamW of", "setting", "weight", "moments", "gradient", "bytes a parameter", "from"]
    lines = []
    for row in found:
        line = [row["task"], row["mode"]]
        for key, digit in (("loss", 4), ("accuracy", 4)):
            values = row.get(key)
            line.append("—" if values is None else f"{values['mean']:.{digit}f} ± {values['spread']:.{digit}f}")
        base = next(one for one in found if (one["task"], one["mode"]) == (row["task"], "float32"))
        differences = [a - b for a, b in zip(row["loss"]["values"], base["loss"]["values"])]
        lines.append([*line, f"{mean(differences):+.4f}"])
    second = ["task", "weights, moments", "loss ± spread over seeds", "accuracy ± spread", "loss less float32's"]
    return f"{table(header, cells)}\n\n{table(second, lines)}"


def picture(kept: list[Footprint], found: list[dict[str, Any]], path: Path) -> None:
    """Draw bytes a parameter as bars, and of each task the loss of each mode with its spread."""
    import matplotlib  # here, since most commands do not need it

    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 1 + len(TASKS), figsize=(16, 6), width_ratios=[2, 1, 1])
    rows = sorted(kept, key=lambda row: -row.total)
    names = [f"{row.package}: {row.setting}" for row in rows]
    left = [0.0] * len(rows)
    for part in ("weight", "states", "gradient"):
        sizes = [getattr(row, part) for row in rows]
        axes[0].barh(names, sizes, left=left, label=part)
        left = [a + b for a, b in zip(left, sizes)]
    axes[0].set_xlabel("AdamW: bytes a parameter")
    axes[0].legend(fontsize=8)
    axes[0].tick_params(axis="y", labelsize=7)
    for panel, task in zip(axes[1:], TASKS):
        mine = [row for row in found if row["task"] == task][::-1]
        means, spreads = ([row["loss"][key] for row in mine] for key in ("mean", "spread"))
        panel.errorbar(means, [row["mode"] for row in mine], xerr=spreads, fmt="o", capsize=3)
        panel.set_xlabel(f"{task}: loss, mean ± spread")
        panel.tick_params(axis="y", labelsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def run(arguments: argparse.Namespace) -> None:
    """Count, train, print both tables, and write the results."""
    torch.set_num_threads(1)  # so that the seeds' losses are the same on each machine of a kind
    seeds = 1 if arguments.quick else arguments.seeds
    kept, found = footprints(), list(quality(seeds, arguments.quick))
    text = (
        f"{tables(kept, found)}\n\nBytes are those of tensors of {torch_gd.Precision().min_elements:,} elements and "
        "more. Counted: from parameter, states and gradient after a step; the others' from what their sources "
        f"allocate. Training: {seeds} seeds, each with the same weights, order and batches in every mode. Here tensors "
        f"of {MIN_ELEMENTS} elements and more are stored as the mode says. The loss is of data that was not trained "
        "on, in float32; the last column is the mean over seeds of the difference from float32 with the same seed. "
        "Activations and gradients are of the parameter's dtype: those of every bfloat16 mode are as in plain bf16."
    )
    command = f"python -m benchmarks memory{' --quick' if arguments.quick else ''}"
    command += f" --seeds {seeds}" if seeds not in (1, 5) else ""
    publish(
        arguments.results,
        "memory",
        command,
        found,
        text,
        footprints=[row._asdict() | {"total": row.total} for row in kept],
    )
    picture(kept, found, arguments.results / "memory.png")
