"""The loss around the end of a real run, in a plane of random directions and in the plane of the run itself.

Li, Xu, Taylor, Studer & Goldstein 2018, Visualizing the Loss Landscape of Neural Nets.
"""

import argparse

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

import torch_gd

from . import digits
from .arguments import positive, seed, two_or_more
from .figure import COLOURS, new_figure, save
from .lr_sweep import add_optimizer_argument, tuned_rate

COMMAND, HELP = "landscape", "the loss around the end of a run on the digits, in two planes"

EVERY = 5  # steps from one recorded point of the run to the next
Weights = dict[str, Tensor]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this picture."""
    add_optimizer_argument(parser)
    parser.add_argument("--epochs", type=positive, default=10, help="through the training part")
    parser.add_argument("--points", type=two_or_more, default=41, help="along each axis of a plane")
    parser.add_argument("--seed", type=seed, default=0, help="of the network and the directions")


def draw(arguments: argparse.Namespace) -> None:
    """Train, and draw both planes to `arguments.out`."""
    data, model = digits.load(), digits.network(arguments.seed)
    lr = tuned_rate(arguments.optimizer, model, data)
    optimizer = torch_gd.create_optimizer(arguments.optimizer, model, lr)
    run = [flat(model)]
    steps = 0

    def record() -> None:
        nonlocal steps
        steps += 1
        if steps % EVERY == 0:
            run.append(flat(model))

    accuracy = digits.train(data, model, optimizer, arguments.epochs, record).accuracy
    points = torch.stack([*run, flat(model)])
    generator = torch.Generator().manual_seed(arguments.seed)

    figure = new_figure(13, 5.5)
    left, right = figure.subplots(1, 2)
    grid = torch.linspace(-1, 1, arguments.points)
    around = plane(model, data, random_direction(model, generator), random_direction(model, generator), grid, grid)
    contours = left.contourf(grid, grid, around, levels=30, cmap="viridis")
    left.contour(grid, grid, around, levels=15, colors="white", linewidths=0.4)
    left.plot(0, 0, "*", color=COLOURS[1], markersize=14, label="end of the run")
    left.set_title("random directions, each filter's as long as the filter")
    left.set_xlabel("first direction")
    left.set_ylabel("second direction")
    figure.colorbar(contours, ax=left, label="training loss")

    directions, along, share = principal(points)
    u, v = (spread(along[:, i], arguments.points) for i in (0, 1))
    of_run = plane(model, data, unflatten(model, directions[0]), unflatten(model, directions[1]), u, v)
    contours = right.contourf(u, v, of_run.log10(), levels=30, cmap="viridis")
    right.contour(u, v, of_run.log10(), levels=15, colors="white", linewidths=0.4, linestyles="solid")
    right.plot(*along.T, ".-", color=COLOURS[1], markersize=4, linewidth=1, label=f"the run, every {EVERY} steps")
    right.plot(0, 0, "*", color=COLOURS[1], markersize=14, label="its end")
    right.set_title(f"the run's own principal directions: {share:.0%} of its way lies in this plane")
    right.set_xlabel("first component")
    right.set_ylabel("second component")
    figure.colorbar(contours, ax=right, label="log₁₀ of the training loss")
    for axes in (left, right):
        axes.legend(fontsize=9)
    figure.suptitle(
        f"{arguments.optimizer}, lr {lr:.2g}, on handwritten digits: {accuracy:.1f} % right on the test part"
    )
    save(figure, arguments.out)


def random_direction(model: nn.Module, generator: torch.Generator) -> Weights:
    """Return a filter-normalised direction (Li et al., section 4).

    Each row of a weight is random and as long as the weight's own row; biases stay where they are.
    """
    direction = {}
    for name, p in model.named_parameters():
        d = torch.randn(p.shape, generator=generator)
        if p.ndim > 1:
            d = (d.flatten(1) * (p.detach().flatten(1).norm(dim=1) / d.flatten(1).norm(dim=1))[:, None]).view_as(p)
        else:
            d.zero_()
        direction[name] = d
    return direction


def principal(points: Tensor) -> tuple[Tensor, Tensor, float]:
    """Return the two directions in which the points lie furthest from the last point.

    Also returned: the points in these directions, and the share of their squared distances that lies in the plane.
    """
    offsets = points - points[-1]
    _, s, vh = torch.linalg.svd(offsets, full_matrices=False)
    return vh[:2], offsets @ vh[:2].T, (s[:2].square().sum() / s.square().sum()).item()


@torch.no_grad()
def plane(model: nn.Module, data: digits.Digits, a: Weights, b: Weights, x: Tensor, y: Tensor) -> Tensor:
    """Return the training loss at weights + x · a + y · b, of shape (y, x)."""
    weights = dict(model.named_parameters())

    def loss(i: Tensor, j: Tensor) -> Tensor:
        moved = {name: p + i * a[name] + j * b[name] for name, p in weights.items()}
        return nn.functional.cross_entropy(functional_call(model, moved, (data.train_x,)), data.train_y)

    return torch.stack([vmap(loss, (0, None))(x, j) for j in y])


def flat(model: nn.Module) -> Tensor:
    """Return all weights in one vector."""
    return nn.utils.parameters_to_vector(model.parameters()).detach().clone()


def unflatten(model: nn.Module, vector: Tensor) -> Weights:
    """Return the weights of a vector by name; the inverse of `flat`."""
    names, parameters = zip(*model.named_parameters())
    parts = vector.split([p.numel() for p in parameters])  # type: ignore[no-untyped-call]  # torch leaves it so
    return {name: part.view_as(p) for name, part, p in zip(names, parts, parameters)}


def spread(along: Tensor, n: int) -> Tensor:
    """Return an axis that the run fits into, with a fifth to spare on either side."""
    low, high = along.min().item(), along.max().item()
    margin = 0.2 * (high - low) or 1.0
    return torch.linspace(low - margin, high + margin, n)
