"""The six on surfaces that each make something hard: where they go, as a picture or, to a .gif, as a film."""

import argparse
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

import torch_gd

from .figure import COLOURS, new_figure, save

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COMMAND, HELP = "surfaces", "the six on Beale, Rosenbrock, a saddle and a ravine; animated if --out ends in .gif"

OPTIMIZERS = ("SGD", "NAG", "Adagrad", "RMSprop", "Adam", "AdamW")
RATES = torch.logspace(-4, 1, 16).tolist()  # three a decade
FRAMES = 40
BANDS = 24  # of height
Surface = Callable[[Tensor, Tensor], Tensor]


class Problem(NamedTuple):
    """A surface, where it is seen, and where one starts."""

    title: str
    surface: Surface
    x: tuple[float, float]
    y: tuple[float, float]
    start: tuple[float, float]
    minima: tuple[tuple[float, float], ...]
    legend: str  # where; found anew for every frame of a film, if left to matplotlib


def beale(x: Tensor, y: Tensor) -> Tensor:
    """Beale 1958: flat, with steep corners."""
    return (1.5 - x + x * y) ** 2 + (2.25 - x + x * y**2) ** 2 + (2.625 - x + x * y**3) ** 2


def rosenbrock(x: Tensor, y: Tensor) -> Tensor:
    """Rosenbrock 1960: a bent valley, its bottom nearly level."""
    return (1 - x) ** 2 + 100 * (y - x**2) ** 2


def saddle(x: Tensor, y: Tensor) -> Tensor:
    """Down towards the saddle, and away from it only slowly at first; a minimum on either side."""
    return x**2 - y**2 + y**4 / 4


def ravine(x: Tensor, y: Tensor) -> Tensor:
    """A quadratic a hundred times steeper across than along."""
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
    """What an optimizer did at its best rate."""

    lr: float
    points: Tensor  # (steps + 1, 2), from the start


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--steps", type=int, default=200, help="of each optimizer")


def draw(arguments: argparse.Namespace) -> None:
    """Draws a panel for each surface to `arguments.out`."""
    paths = [{name: descend(name, problem, arguments.steps) for name in OPTIMIZERS} for problem in PROBLEMS]
    figure = new_figure(12, 9)
    artists = panels(figure, paths)
    if Path(arguments.out).suffix.lower() == ".gif":
        film(figure, artists, arguments.steps, arguments.out)
    else:
        save(figure, arguments.out)


def descend(name: str, problem: Problem, steps: int) -> Path2D:
    """An optimizer's path at that of the rates with the lowest mean value along it.

    All rates run at once, each a parameter group of one optimizer. A path that leaves the picture is none.
    """
    points: list[Tensor] = [nn.Parameter(torch.tensor(problem.start)) for _ in RATES]
    groups: list[dict[str, Any]] = [{"params": [p], "lr": lr} for p, lr in zip(points, RATES)]
    optimizer: torch.optim.Optimizer = getattr(torch_gd, name)(groups)
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
    """Contours and whole paths; returns each path's line, the dot at its end, and its points."""
    artists = []
    for axes, problem, of_problem in zip(figure.subplots(2, 2).flat, PROBLEMS, paths):
        x, y = torch.meshgrid(torch.linspace(*problem.x, 200), torch.linspace(*problem.y, 200), indexing="xy")
        z = problem.surface(x, y)
        lowest = min(problem.surface(*torch.tensor(m)).item() for m in problem.minima)
        # Bands by the logarithm: narrow where the surface is flat. An image, because a film draws it again and again.
        height = (z - lowest + 1e-3).log()
        bands = ((height - height.min()) / (height.max() - height.min()) * BANDS).floor()
        extent = (*problem.x, *problem.y)
        axes.imshow(
            bands, cmap="Greys", alpha=0.6, origin="lower", extent=extent, aspect="auto", interpolation="nearest"
        )
        # The later line is thinner: where two coincide, both are seen.
        for (name, path), colour, width in zip(of_problem.items(), COLOURS, (3.4, 2.9, 2.4, 1.9, 1.5, 0.8)):
            (line,) = axes.plot(*path.points.T, color=colour, linewidth=width, label=f"{name}, lr {path.lr:.2g}")
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
    """The paths as they grow, in a GIF of a few seconds."""
    from matplotlib.animation import FuncAnimation, PillowWriter

    def frame(step: int) -> list[Any]:
        for line, dot, points in artists:
            line.set_data(*points[: step + 1].T)
            dot.set_data(*points[step : step + 1].T)
        figure.suptitle(f"step {step}")
        return []

    figure.suptitle("step 0")
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # it is laid out once, not for every frame
    ends = sorted(
        {round(steps * (i / FRAMES) ** 1.5) for i in range(FRAMES + 1)}
    )  # slowly at first, where much happens
    FuncAnimation(figure, frame, frames=[*ends, *[steps] * 10]).save(path, PillowWriter(fps=12), dpi=60)
