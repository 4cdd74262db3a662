"""Accuracy against batch size by optimizer and by scaling of the rate, from the log of examples/large_batch.py."""

import argparse

from .figure import COLOURS, new_figure, save
from .from_log import add_log_argument, read

COMMAND, HELP = "large-batch", "accuracy at growing batch sizes, from the log of examples/large_batch.py"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this picture."""
    add_log_argument(parser, "large_batch")


def draw(arguments: argparse.Namespace) -> None:
    """Draw a panel for each rule that the rates are scaled by to `arguments.out`."""
    panels: dict[str, dict[str, tuple[list[float], list[float]]]] = {}
    for name, run in read(arguments.log, "accuracy").items():
        optimizer, _, rule = name.partition(", ")
        panels.setdefault(rule, {})[optimizer] = run["accuracy"]
    figure = new_figure(4 * len(panels), 4)
    for axes, (rule, curves) in zip(figure.subplots(1, len(panels), sharey=True, squeeze=False).flat, panels.items()):
        for (optimizer, (sizes, accuracies)), colour in zip(curves.items(), COLOURS):
            axes.plot(sizes, [100 * accuracy for accuracy in accuracies], "o-", color=colour, label=optimizer)
        axes.set_title(f"learning rate: {rule}")
        axes.set_xscale("log", base=2)
        axes.set_xticks(sizes, [f"{size:,.0f}" for size in sizes])
        axes.set_ylim(0, 100)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=9)
    figure.supxlabel("images in a batch; every run sees each image as often")
    figure.supylabel("test accuracy [%]")
    save(figure, arguments.out)
