"""The digits of scikit-learn, 1,797 images of 8×8 pixels, and a small network that learns them in a second."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader, TensorDataset


class Digits(NamedTuple):
    """Pixels in [0, 1], of shape (n, 64), and labels."""

    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor

    def loader(self, batch_size: int = 64, seed: int = 0) -> "DataLoader[tuple[Tensor, ...]]":
        """Return the training part in mini-batches, in an order that the seed decides."""
        generator = torch.Generator().manual_seed(seed)
        return DataLoader(
            TensorDataset(self.train_x, self.train_y), batch_size, shuffle=True, drop_last=True, generator=generator
        )


@dataclass
class Run:
    """The result of a training run: the loss at each step, and the accuracy on the test part in percent."""

    losses: list[float] = field(default_factory=list)
    accuracy: float = 0.0


def load(seed: int = 0) -> Digits:
    """Return the digits, shuffled; a quarter of them is the test part.

    Raises:
        ModuleNotFoundError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "the digits come with scikit-learn, which is not installed: pip install scikit-learn"
        ) from error
    data = load_digits()
    order = torch.randperm(len(data.target), generator=torch.Generator().manual_seed(seed))
    x = torch.from_numpy(data.data).float()[order] / 16
    y = torch.from_numpy(data.target).long()[order]
    test = len(y) // 4
    return Digits(x[test:], y[test:], x[:test], y[:test])


def network(seed: int = 0) -> nn.Module:
    """Return a network with 64 inputs, 64 hidden units and 10 outputs. The global generator is left alone."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


def train(
    digits: Digits, model: nn.Module, optimizer: Optimizer, epochs: int, each_step: Callable[[], None] | None = None
) -> Run:
    """Train until the epochs are over or the loss is not finite. `each_step` is called after each step."""
    run, batches = Run(), digits.loader()
    for _ in range(epochs):
        for x, y in batches:
            loss = nn.functional.cross_entropy(model(x), y)
            run.losses.append(loss.item())
            if not torch.isfinite(loss):
                break
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it so
            optimizer.step()
            if each_step is not None:
                each_step()
    with torch.no_grad():
        right = model(digits.test_x).argmax(1) == digits.test_y
    run.accuracy = 100 * right.float().mean().item()
    return run
