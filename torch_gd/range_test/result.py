"""What a range test found: the curve, and the learning rates that it suggests."""

from dataclasses import dataclass
from functools import cached_property
from os import PathLike

from . import picture
from .descent import MAX_CHANCE, Descent, centred_means, descent, half_width

FAR_DOWN = 2 / 3  # valley: how far down the descent, by the logarithm of the rate


@dataclass(frozen=True, repr=False)
class LRRangeTest:
    """The curve of a range test, and the learning rates that it suggests.

    Attributes:
        lrs: the learning rate of each step, that of the first parameter group.
        losses: the loss of each step's mini-batch, before the step. The suggestions rest on these.
        smoothed: the exponential moving average of the losses, which decides when the loss has diverged.
        diverged: whether the test ended early because the loss had grown too much.

    Example:
        >>> import torch_gd
        >>> losses = (1.0, 1.0, 1.0, 0.9, 0.7, 0.5, 0.4, 2.0)
        >>> torch_gd.LRRangeTest(tuple(10.0**i for i in range(-6, 2)), losses, losses, diverged=True)
        LRRangeTest(8 points, lr 1e-06 to 10, suggestion 0.01, diverged)
    """

    lrs: tuple[float, ...]
    losses: tuple[float, ...]
    smoothed: tuple[float, ...]
    diverged: bool

    @property
    def suggestion(self) -> float | None:
        """The same as `valley`; None where the losses fall by no more than their noise may. `doubt` says why."""
        return self.valley if self.lrs and self._descent.chance < MAX_CHANCE else None

    @property
    def doubt(self) -> str:
        """Why there is no suggestion, or why it may be wrong, and what to do; empty without a doubt."""
        if not self.lrs:
            return "there are no losses"
        first, last = f"start_lr={self.lrs[0]:.3g}", f"end_lr={self.lrs[-1]:.3g}"
        more = "take more steps or larger batches"
        if self.suggestion is None:
            end = more if self.diverged else f"raise {last}, where the loss had not diverged, or {more}"
            return f"there is no suggestion, because the loss falls by no more than its noise may: {end}"
        edges = []
        if self._descent.start < half_width(len(self.lrs)):
            edges.append(f"the loss falls from the first rate on: lower {first}")
        if not self.diverged and self._descent.bottom >= len(self.lrs) - half_width(len(self.lrs)):
            edges.append(f"the loss still falls at the last rate: raise {last}")
        return "; ".join(edges)

    @property
    def valley(self) -> float:
        """The rate two thirds down the descent of the loss, by the logarithm of the rate.

        The descent is fitted to all losses up to the lowest point: it is level, and then falls along a straight line.
        """
        start, bottom, _ = self._descent
        return float(self.lrs[start] ** (1 - FAR_DOWN) * self.lrs[bottom] ** FAR_DOWN)

    @property
    def steepest(self) -> float:
        """The rate where the loss falls fastest within the descent, by the logarithm of the rate.

        The loss is the mean around each rate. It moves more than `valley` does from one run to the next.
        """
        means = centred_means(self.losses)
        start, bottom, _ = self._descent
        falls = [means[i + 1] - means[max(i - 1, 0)] for i in range(start, bottom)]
        return self.lrs[start + falls.index(min(falls))] if falls else self.lrs[start]

    @property
    def tenth_of_minimum(self) -> float:
        """A tenth of the rate where the mean loss around a rate is lowest."""
        return self.lrs[self._descent.bottom] / 10

    @property
    def suggestions(self) -> dict[str, float]:
        """All three suggestions, by name, whatever the doubts."""
        return {name: getattr(self, name) for name in ("steepest", "tenth_of_minimum", "valley")}

    @cached_property
    def _descent(self) -> Descent:
        return descent(self.losses)

    def plot(self, path: str | PathLike[str]) -> None:
        """Draw the curve and the suggestions to a file, whose ending says the format (.png, .svg, …)."""
        picture.draw(path, self.lrs, self.losses, self.smoothed, self.suggestions, self.diverged)

    def __repr__(self) -> str:
        if not self.lrs:
            return "LRRangeTest(no points)"
        parts = [f"{len(self.lrs)} points", f"lr {self.lrs[0]:.3g} to {self.lrs[-1]:.3g}"]
        parts += ["no suggestion" if self.suggestion is None else f"suggestion {self.suggestion:.3g}"]
        parts += ["diverged"] if self.diverged else []
        return f"LRRangeTest({', '.join(parts)})"
