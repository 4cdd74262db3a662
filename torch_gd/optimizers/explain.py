"""What an optimizer's next step does, as a table for people."""

from dataclasses import dataclass

from torch.optim import Optimizer

from .._engine.clip import measures
from .._engine.report import REFUSED, SKIPPED, BatchReport, report_step
from .base import FusedOptimizer


@dataclass(frozen=True)
class Explanation:
    """What an optimizer's next step does. Print it for a table.

    Attributes:
        optimizer: name of the optimizer's class.
        batches: a report for each batch; see the attributes of `torch_gd.optimizers.BatchReport`.
        extra_launches: launches of our kernels that belong to no batch.
    """

    optimizer: str
    batches: tuple[BatchReport, ...]
    extra_launches: int

    @property
    def launches(self) -> int:
        """Return the launches of our kernels in the whole step."""
        return self.extra_launches + sum(batch.launches or 0 for batch in self.batches)

    def __str__(self) -> str:
        header = ["groups", "tensors", "elements", "dtypes", "device", "route", "launches", "bytes/element", "why"]
        rows = [header, *map(_cells, self.batches)]
        updated = [batch for batch in self.batches if batch.route not in (SKIPPED, REFUSED)]
        elements = sum(batch.elements for batch in updated)
        moved = sum(batch.elements * batch.bytes_an_element for batch in updated)
        exact = all(batch.launches is not None for batch in updated)
        total = ["total", f"{sum(batch.tensors for batch in updated):,}", f"{elements:,}", "", "", ""]
        total += [str(self.launches), ("" if exact else "≥ ") + f"{moved / elements:.3g}" if elements else ""]
        total += [f"{self.extra_launches} launch adds up the norm" if self.extra_launches else ""]
        rows.append(total)
        widths = [max(map(len, column)) for column in zip(*rows)]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]
        return "\n".join([f"{self.optimizer}: one step", *lines])

    __repr__ = __str__


def explain(optimizer: Optimizer) -> Explanation:
    """Return what the next step of an optimizer does: which implementation updates which tensors, and why.

    Nothing is changed and no GPU is waited for. It works before the first step too, and before the first backward pass,
    when each gradient is taken to be like its parameter.

    Args:
        optimizer: one of this package's.

    Returns:
        An `Explanation`, which prints as a table: for each batch its parameter groups, tensors, elements, dtypes and
        device, the route, launches of our kernels, bytes read and written for each element, and why it takes this
        route; then the totals. On torch's routes the bytes are the least that the algorithm needs.

    Raises:
        TypeError: another package's optimizer, or a class.

    Example:
        >>> import torch, torch_gd
        >>> model = torch.nn.Linear(8, 2)
        >>> optimizer = torch_gd.AdamW(model.parameters(), foreach=True)
        >>> print(torch_gd.explain(optimizer))
        AdamW: one step
        groups  tensors  elements  dtypes   device  route          launches  bytes/element  why
        0       2        18        float32  cpu     torch foreach  —         ≥ 28           foreach=True was given; ...
        total   2        18                                        0         ≥ 28
    """
    if not isinstance(optimizer, FusedOptimizer):
        kind = optimizer if isinstance(optimizer, type) else type(optimizer)
        what = "a class" if kind is optimizer else "not an optimizer of torch_gd"
        raise TypeError(
            f"Invalid optimizer: {kind.__module__}.{kind.__qualname__} is {what}; explain takes an instance, such as "
            "torch_gd.AdamW(model.parameters())"
        )
    engine, clip = optimizer._engine, optimizer.clip
    batches = report_step(engine.algorithm, optimizer.param_groups, optimizer.state, clip, engine.scaled)
    extra = int(measures(clip) and any(batch.launches for batch in batches))
    return Explanation(type(optimizer).__name__, tuple(batches), extra)


def _cells(batch: BatchReport) -> list[str]:
    bytes_each = ("" if batch.launches is not None else "≥ ") + f"{batch.bytes_an_element:.3g}"
    return [
        ", ".join(map(str, batch.groups)),
        f"{batch.tensors:,}",
        f"{batch.elements:,}",
        batch.dtypes,
        batch.device,
        batch.route,
        "—" if batch.launches is None else str(batch.launches),
        "—" if batch.route in (SKIPPED, REFUSED) else bytes_each,
        batch.reason,
    ]
