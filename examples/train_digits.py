"""Trains a small network on scikit-learn's handwritten digits, with any of the optimizers.

    python examples/train_digits.py                                    # AdamW, a few seconds on a CPU
    python examples/train_digits.py --optimizer nag --against-torch    # the same training with torch.optim beside it

The data, 1,797 images of 8 × 8 pixels, come with scikit-learn: nothing is downloaded.
"""

import argparse
from typing import NamedTuple

import torch
import torch.nn.functional as F
from argument_types import count, not_negative, output_picture, positive, seed, usable_device
from matplotlib.figure import Figure
from optimizer_choices import CHOICES, Constructor, add_arguments, chosen
from sklearn.datasets import load_digits
from torch import Tensor, nn
from tqdm import tqdm

import torch_gd

TEST_IMAGES = 360
SCHEDULES = (
    "constant",
    "constant_with_warmup",
    "linear",
    "cosine",
    "cosine_with_restarts",
    "polynomial",
    "inverse_sqrt",
)


class Digits(NamedTuple):
    """The images and their labels."""

    images: Tensor  # (n, 1, 8, 8), from 0 to 1
    labels: Tensor  # (n,)
    test_images: Tensor
    test_labels: Tensor


class Curve(NamedTuple):
    """What each epoch of a training showed."""

    losses: list[float]  # mean training loss of each epoch
    accuracies: list[float]  # share of the test images that are right after each epoch


def load(device: str = "cpu", samples: int | None = None) -> Digits:
    """Return the digits: 1,437 images to train on, or the first `samples` of them, and 360 to test on."""
    digits = load_digits()
    images = torch.tensor(digits.images / 16, dtype=torch.float32, device=device).unsqueeze(1)
    labels = torch.tensor(digits.target, device=device)
    # The images are shuffled, since they come sorted by their writers; always in the same way, so that accuracies with
    # different seeds compare.
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0)).to(device)
    test, training = order[:TEST_IMAGES], order[TEST_IMAGES:]
    if samples is not None and not 0 < samples <= len(training):
        raise ValueError(f"samples must be from 1 to {len(training)}, the images to train on, not {samples}")
    training = training[:samples]
    return Digits(images[training], labels[training], images[test], labels[test])


def train(
    new_optimizer: Constructor,
    data: Digits,
    lr: float,
    epochs: int = 15,
    batch_size: int = 32,
    seed: int = 0,
    label: str | None = None,
    schedule: str = "constant",
    warmup: int = 0,
) -> Curve:
    """Train a new network; its weights and the order of the images depend on `seed` alone.

    The network has neither ReLU nor max-pooling, so that its loss is smooth. With them, a rounding error can change
    which side of a kink a value lies on, and the losses of two trainings that differed by rounding alone came to differ
    by up to 2e-4 after a few hundred steps. Here they differ by about 1e-7.
    """
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.GELU(),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.GELU(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(32 * 4 * 4, 10),
    ).to(data.images.device)
    optimizer = new_optimizer(model, lr)
    total_steps = epochs * -(-len(data.labels) // batch_size)
    scheduler = torch_gd.get_scheduler(schedule, optimizer, warmup, total_steps)

    curve = Curve([], [])
    progress = tqdm(range(epochs), desc=label, unit="epoch")
    for _ in progress:
        total = torch.zeros((), dtype=torch.float64, device=data.images.device)  # read at the epoch's end
        for batch in torch.randperm(len(data.labels)).to(data.images.device).split(batch_size):
            loss = F.cross_entropy(model(data.images[batch]), data.labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
            total += loss.detach() * len(batch)
        with torch.no_grad():
            right = model(data.test_images).argmax(dim=1) == data.test_labels
        curve.losses.append(total.item() / len(data.labels))
        curve.accuracies.append(right.double().mean().item())
        progress.set_postfix(loss=f"{curve.losses[-1]:.4f}", accuracy=f"{curve.accuracies[-1]:.1%}")
    return curve


def print_side_by_side(ours: Curve, torchs: Curve) -> None:
    """Print the losses of both, epoch by epoch, and how far they differ."""
    print(f"{'epoch':>5}  {'torch_gd':>10}  {'torch.optim':>11}  difference")
    differences = [abs(a - b) for a, b in zip(ours.losses, torchs.losses)]
    for epoch, (a, b, difference) in enumerate(zip(ours.losses, torchs.losses, differences), start=1):
        print(f"{epoch:5}  {a:10.6f}  {b:11.6f}  {difference:.1e}")
    print(f"largest difference of the losses: {max(differences):.1e}")


def plot(curves: dict[str, Curve], title: str, path: str) -> None:
    """Draw losses and accuracies to a file."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    figure.suptitle(title)
    left, right = figure.subplots(1, 2)
    # The second curve is thinner, so that both can be seen where they coincide.
    for (label, curve), width in zip(curves.items(), (5, 1.5)):
        epochs = range(1, len(curve.losses) + 1)
        left.semilogy(epochs, curve.losses, label=label, linewidth=width)
        right.plot(epochs, [100 * accuracy for accuracy in curve.accuracies], label=label, linewidth=width)
    left.set(xlabel="epoch", ylabel="training loss")
    right.set(xlabel="epoch", ylabel="test accuracy [%]")
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.legend()
    figure.savefig(path, dpi=150)


def main() -> None:
    """Train, beside torch if asked to, print the accuracy and draw the curves."""
    parser = argparse.ArgumentParser(description="Train a small network on scikit-learn's handwritten digits.")
    add_arguments(parser, default="adamw")
    parser.add_argument("--epochs", type=positive, default=15, help="default: %(default)s")
    parser.add_argument("--lr", type=not_negative, help="learning rate (default: one that suits the optimizer)")
    parser.add_argument("--batch-size", type=positive, default=32, help="default: %(default)s")
    parser.add_argument("--seed", type=seed, default=0, help="of weights and order of images (default: %(default)s)")
    parser.add_argument("--schedule", choices=SCHEDULES, default="constant", help="default: %(default)s")
    parser.add_argument("--warmup", type=count, metavar="STEPS", default=0, help="of warm-up (default: %(default)s)")
    parser.add_argument("--device", type=usable_device, default="cpu", help="cpu, cuda, … (default: %(default)s)")
    parser.add_argument("--samples", type=positive, metavar="N", help="train on the first N images only (default: all)")
    parser.add_argument(
        "--plot", type=output_picture, metavar="PATH", default="digits.png", help="picture to draw (%(default)s)"
    )
    args = parser.parse_args()

    torch.set_num_threads(1)  # a second thread gains nothing for images this small, and costs much on shared cores
    try:
        data = load(args.device, args.samples)
    except ValueError as error:
        parser.error(f"argument --samples: {error}")
    ours, torchs = chosen(parser, args)
    lr = CHOICES[args.optimizer].digits if args.lr is None else args.lr
    if args.warmup and args.schedule == "constant":
        parser.error("--warmup needs a --schedule with warm-up, such as constant_with_warmup or cosine")
    steps = args.epochs * -(-len(data.labels) // args.batch_size)
    if args.warmup > steps:
        parser.error(f"argument --warmup: there are only {steps:,} steps")
    settings = {"lr": lr, "epochs": args.epochs, "batch_size": args.batch_size, "seed": args.seed}
    settings |= {"schedule": args.schedule, "warmup": args.warmup}

    curves = {"torch_gd": train(ours, data, **settings, label="torch_gd")}
    if torchs is not None:
        curves["torch.optim"] = train(torchs, data, **settings, label="torch.optim")
        print_side_by_side(*curves.values())
    print(f"{args.optimizer}, lr {lr:g}: test accuracy {curves['torch_gd'].accuracies[-1]:.1%}")
    plot(curves, f"Handwritten digits, {args.optimizer}, lr {lr:g}", args.plot)
    print(f"curves drawn in {args.plot}")


if __name__ == "__main__":
    main()
