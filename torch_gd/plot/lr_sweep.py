"""The digits, trained at learning rates that are too small, well tuned and too large."""

import argparse
import math

from torch import nn

import torch_gd

from . import digits
from .arguments import positive, seed
from .figure import COLOURS, new_figure, save

COMMAND, HELP = "lr-sweep", "train the digits at rates too small, well tuned and too large"

TOO_SMALL, TOO_LARGE = 1 / 100, 30  # multiples of the well-tuned rate


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this picture."""
    add_optimizer_argument(parser)
    parser.add_argument("--epochs", type=positive, default=10, help="through the training part")
    parser.add_argument("--seed", type=seed, default=0, help="of the network")


def draw(arguments: argparse.Namespace) -> None:
    """Train three times, and draw the losses to `arguments.out`."""
    data = digits.load()
    tuned = tuned_rate(arguments.optimizer, digits.network(arguments.seed), data)
    figure = new_figure(8, 5)
    axes = figure.subplots()
    rates = {"too small": tuned * TOO_SMALL, "well tuned": tuned, "too large": tuned * TOO_LARGE}
    for (name, lr), colour in zip(rates.items(), COLOURS):
        model = digits.network(arguments.seed)
        run = digits.train(data, model, torch_gd.create_optimizer(arguments.optimizer, model, lr), arguments.epochs)
        losses = [loss for loss in run.losses if math.isfinite(loss)]
        label = f"{name}: {lr:.2g}, {run.accuracy:.1f} % right on the test part"
        axes.plot(losses, color=colour, linewidth=1.2, label=label)
        if len(losses) < len(run.losses):
            axes.plot(len(losses) - 1, losses[-1], "x", color=colour, markersize=10)
    axes.set_yscale("log")
    axes.set_xlabel("step")
    axes.set_ylabel("training loss of a mini-batch")
    axes.set_title(f"{arguments.optimizer} on handwritten digits: three learning rates")
    axes.axhline(math.log(10), color="0.5", linestyle=":", label="guessing")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=9)
    save(figure, arguments.out)


def add_optimizer_argument(parser: argparse.ArgumentParser) -> None:
    """Add `--optimizer`, any by name."""
    names = torch_gd.list_optimizers()
    parser.add_argument(
        "--optimizer", type=str.lower, choices=names, default="momentum", metavar="NAME", help=f"of {', '.join(names)}"
    )


def tuned_rate(name: str, model: nn.Module, data: digits.Digits) -> float:
    """Return the learning rate that a range test finds for an optimizer."""
    optimizer = torch_gd.create_optimizer(name, model, 1e-3)
    found = torch_gd.lr_range_test(model, optimizer, nn.functional.cross_entropy, data.loader())
    # Each of LAMB's steps is a share of the weight's norm. A rate at which it diverges may take longer to do so than a
    # range test lasts.
    return found.tenth_of_minimum if name == "lamb" else found.valley
