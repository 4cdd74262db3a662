"""Gradients by layer and losses of a deep network, plain and cured, from the log of examples/depth.py."""

import argparse

from .figure import COLOURS, new_figure, save
from .from_log import add_log_argument, read

COMMAND, HELP = "depth", "gradients by layer, plain and cured, from the log of examples/depth.py"
STYLES = ("-", "--")  # the second one when all colours are used


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this picture."""
    add_log_argument(parser, "depth")


def draw(arguments: argparse.Namespace) -> None:
    """Draw gradients and losses to `arguments.out`."""
    figure = new_figure(13, 5)
    left, right = figure.subplots(1, 2)
    for i, (name, run) in enumerate(read(arguments.log, "gradient", "loss").items()):
        look = {"color": COLOURS[i % len(COLOURS)], "linestyle": STYLES[i // len(COLOURS) % len(STYLES)], "label": name}
        left.semilogy(*run["gradient"], **look)
        right.semilogy(*run["loss"], **look)
    left.set_title("gradient at the first step")
    left.set_xlabel("layer, from the input to the output")
    left.set_ylabel("root mean square")
    left.xaxis.get_major_locator().set_params(integer=True)
    right.set_title("training loss")
    right.set_xlabel("step")
    right.set_ylim(1e-3, 1e2)
    for axes in (left, right):
        axes.grid(alpha=0.3)
    left.legend(fontsize=8)
    save(figure, arguments.out)
