"""A picture of committed results: the time of our step over that of torch's or timm's best, by optimizer and size."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from .report import RESULTS

SIZES = {(1, 1): "1 element", (300, 1): "300 × 1", (300, 4096): "300 × 4,096", (1, 4_000_000): "1 × 4,000,000"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of cpu.json, and of ratios.png to write")


def draw(cpu: dict[str, Any], path: Path) -> None:
    """Draw the ratios of one thread as bars.

    Args:
        cpu: what `python -m benchmarks cpu` has written.
        path: the picture's file.
    """
    import matplotlib.pyplot as plt

    rows = [row for row in cpu["rows"] if row["threads"] == 1]
    algorithms = list(dict.fromkeys(row["algorithm"] for row in rows))
    figure, axes = plt.subplots(figsize=(12, 3.6), layout="constrained")
    for i, (size, label) in enumerate(SIZES.items()):
        ratios = {row["algorithm"]: row.get("ratio", 0) for row in rows if (row["tensors"], row["elements"]) == size}
        places = [place + (i - 1.5) * 0.2 for place in range(len(algorithms))]
        axes.bar(places, [ratios.get(name, 0.0) for name in algorithms], width=0.18, label=label)
    axes.axhline(1.0, color="black", linewidth=1)
    axes.set_xticks(range(len(algorithms)), [name.replace(" ", "\n") for name in algorithms])
    axes.set_ylabel("time / torch's or timm's best")
    axes.set_title(f"A step on the CPU, one thread, torch {cpu['environment']['torch']}; below the line is faster")
    figure.legend(ncols=4, fontsize="small", loc="outside lower center")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def run(arguments: argparse.Namespace) -> None:
    """Draw `ratios.png`."""
    source = arguments.results / "cpu.json"
    try:
        cpu = json.loads(source.read_text())
        draw(cpu, arguments.results / "ratios.png")
    except (OSError, ValueError, KeyError, TypeError) as error:
        print(f"python -m benchmarks ratios: cannot draw {source}: {error!r}", file=sys.stderr)
        raise SystemExit(2) from error
    print(arguments.results / "ratios.png")
