"""Optimizers on surfaces that are hard in different ways: their paths, as a picture or as a film."""

import argparse
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

import torch_gd

from .arguments import positive
from .figure import COLOURS, new_figure, save

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COMMAND, HELP = "surfaces", "optimizers on Beale, Rosenbrock, a saddle and a ravine; animated if --out ends in .gif"

OPTIMIZERS = ("sgd", "nag", "adagrad", "rmsprop", "adam", "adamw")  # by default
RATES = torch.logspace(-4, 1, 16).tolist()  # three in a decade
FRAMES = 40  # of a film
STYLES = ("-", "--", ":")  # the next one when all colours are used
BANDS = 24  # of height, in shades of grey
Surface = Callable[[Tensor, Tensor], Tensor]


class Problem(NamedTuple):
    """A surface, the part of it that is drawn, and the point to start from."""

    title: str
    surface: Surface
    x: tuple[float, float]
    y: tuple[float, float]
    start: tuple[float, float]
    minima: tuple[tuple[float, float], ...]
    legend: str  # its place; matplotlib would search it again for every frame of a film


def beale(x: Tensor, y: Tensor) -> Tensor:
    """Return the height of Beale's surface (1958), which is flat with steep corners."""
    return (1.5 - x + x * y) ** 2 + (2.25 - x + x * y**2) ** 2 + (2.625 - x + x * y**3) ** 2


def rosenbrock(x: Tensor, y: Tensor) -> Tensor:
    """Return the height of Rosenbrock's surface (1960), a bent valley whose bottom is nearly level."""
    return (1 - x) ** 2 + 100 * (y - x**2) ** 2


def saddle(x: Tensor, y: Tensor) -> Tensor:
    """Return the height of a saddle between two minima; the way out of it is slow at first."""
    return x**2 - y**2 + y**4 / 4


def ravine(x: Tensor, y: Tensor) -> Tensor:
    """Return the height of a quadratic that is a hundred times steeper across than along."""
    return (x**2 + 100 * y**2) / 2


PROBLEMS = (
    Problem("Beale", beale, (-0.5, 4), (-1, 2), (1.0, 1.5), ((3, 0.5),), "upper right"),
    Problem("Rosenbrock", rosenbrock, (-1.7, 1.7), (-0.7, 1.7), (-1.2, 1.0), ((1, 1),), "lower left"),
    Problem(
        "saddle", saddle, (-1.2, 1.2), (-1.8, 1.8), (1.0, 0.001), ((0, -math.sqrt(2)), (0, math.sqrt(2))), "lower right"
    ),
    Problem("ravine", ravine, (-10, 2), (-2, 2), (-9.0, 1.5), ((0, 0),), "upper right"),
)


class Path2D(NamedTuple):
    """The path of an optimizer at its best rate."""

    lr: float
    points: Tensor  # (steps + 1, 2), from the start


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this picture."""
    parser.add_argument("--steps", type=positive, default=200, help="of each optimizer")
    parser.add_argument(
        "--optimizers",
        nargs="+",
        type=str.lower,
        choices=torch_gd.list_optimizers(),
        default=OPTIMIZERS,
        metavar="NAME",
        help=f"of {', '.join(torch_gd.list_optimizers())}",
    )


def draw(arguments: argparse.Namespace) -> None:
    """Draw a panel for each surface to `arguments.out`."""
    names = dict.fromkeys(arguments.optimizers)
    paths = [{name: descend(name, problem, arguments.steps) for name in names} for problem in PROBLEMS]
    figure = new_figure(12, 9)
    artists = panels(figure, paths)
    if Path(arguments.out).suffix.lower() == ".gif":
        film(figure, artists, arguments.steps, arguments.out)
    else:
        save(figure, arguments.out)


def descend(name: str, problem: Problem, steps: int) -> Path2D:
    """Return an optimizer's path at its best rate, the one with the lowest mean height along the path.

    All rates run at once, each in a parameter group of one optimizer. A path that leaves the picture does not count.
    """
    points: list[Tensor] = [nn.Parameter(torch.tensor(problem.start)) for _ in RATES]
    groups: list[dict[str, Any]] = [{"params": [p], "lr": lr} for p, lr in zip(points, RATES)]
    optimizer = torch_gd.create_optimizer(name, groups)
    paths = [torch.stack(points).detach()]
    for _ in range(steps):
        optimizer.zero_grad()
        problem.surface(*torch.stack(points).T).sum().backward()  # type: ignore[no-untyped-call]  # torch leaves it so
        optimizer.step()
        paths.append(torch.stack(points).detach())
    path = torch.stack(paths)  # (steps + 1, rates, 2)
    x, y = path.unbind(-1)
    inside = (x > problem.x[0]) & (x < problem.x[1]) & (y > problem.y[0]) & (y < problem.y[1])
    values = problem.surface(x, y).where(inside, math.inf).mean(0)
    best = int(values.argmin())
    return Path2D(RATES[best], path[:, best])


def panels(figure: "Figure", paths: list[dict[str, Path2D]]) -> list[tuple[Any, Any, Tensor]]:
    """Draw the surfaces and the paths; return each path's line, the dot at its end, and its points."""
    artists = []
    for axes, problem, of_problem in zip(figure.subplots(2, 2).flat, PROBLEMS, paths):
        x, y = torch.meshgrid(torch.linspace(*problem.x, 200), torch.linspace(*problem.y, 200), indexing="xy")
        z = problem.surface(x, y)
        lowest = min(problem.surface(*torch.tensor(m)).item() for m in problem.minima)
        # The bands go by the logarithm of the height, so that they are narrow where the surface is flat. They are an
        # image because a film draws them for every frame.
        height = (z - lowest + 1e-3).log()
        bands = ((height - height.min()) / (height.max() - height.min()) * BANDS).floor()
        extent = (*problem.x, *problem.y)
        axes.imshow(
            bands, cmap="Greys", alpha=0.6, origin="lower", extent=extent, aspect="auto", interpolation="nearest"
        )
        # Each line is thinner than the one before, so that both can be seen where two coincide.
        widths = torch.linspace(3.4, 0.8, max(len(of_problem), len(OPTIMIZERS))).tolist()
        for i, (name, path) in enumerate(of_problem.items()):
            colour, style = COLOURS[i % len(COLOURS)], STYLES[i // len(COLOURS) % len(STYLES)]
            label = f"{name}, lr {path.lr:.2g}"
            (line,) = axes.plot(*path.points.T, color=colour, linestyle=style, linewidth=widths[i], label=label)
            (dot,) = axes.plot(*path.points[-1:].T, "o", color=colour, markersize=6)
            artists.append((line, dot, path.points))
        axes.plot(*zip(*problem.minima), "*", color="black", markersize=13, label="minimum", linestyle="none")
        axes.plot(*problem.start, "s", color="black", markersize=6, label="start", linestyle="none", zorder=3)
        axes.set_xlim(problem.x)
        axes.set_ylim(problem.y)
        axes.set_title(problem.title)
        axes.legend(fontsize=7, loc=problem.legend)
    return artists


def film(figure: "Figure", artists: list[tuple[Any, Any, Tensor]], steps: int, path: str) -> None:
    """Draw the growing paths to a GIF of a few seconds."""
    from matplotlib.animation import FuncAnimation, PillowWriter

    def frame(step: int) -> list[Any]:
        for line, dot, points in artists:
            line.set_data(*points[: step + 1].T)
            dot.set_data(*points[step : step + 1].T)
        figure.suptitle(f"step {step}")
        return []

    figure.suptitle("step 0")
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # it has been laid out, which is enough for all frames
    # Slow at first, where much happens.
    ends = sorted({round(steps * (i / FRAMES) ** 1.5) for i in range(FRAMES + 1)})
    FuncAnimation(figure, frame, frames=[*ends, *[steps] * 10]).save(path, PillowWriter(fps=12), dpi=60)
