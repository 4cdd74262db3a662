"""`lr_range_test`: train a little at ever higher rates, and see where the loss falls."""

import math
import warnings
from collections.abc import Callable, Iterable, Iterator
from os import PathLike
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from .._arguments import answering, count, real
from .._engine.shards import is_dtensor
from .._engine.sharing import groups_sharing, is_first, mean, reshard
from . import checks
from .names import RIGHT_NAMES
from .result import LRRangeTest
from .snapshot import everything_restored


@answering(RIGHT_NAMES, label="lr_range_test")
def lr_range_test(
    model: nn.Module,
    optimizer: Optimizer,
    loss_fn: Callable[[Any, Any], Tensor],
    loader: Iterable[Any],
    *,
    start_lr: float = 1e-6,
    end_lr: float = 10.0,
    steps: int = 200,
    smoothing: float = 0.9,
    divergence: float = 4.0,
    progress: bool | None = None,
    plot: str | PathLike[str] | None = None,
) -> LRRangeTest:
    """Find a learning rate: train at rates that rise exponentially, and put everything back (Smith 2017).

    The learning rate of step i is `start_lr * (end_lr / start_lr) ** (i / (steps - 1))`.
    Afterwards parameters, buffers, gradients, training mode, the optimizer's states and groups, and all random number
    generators are as they were before, in the same objects. Step hooks run during the test, so an attached `Monitor`
    records its steps.

    A model that is spread over ranks (FSDP2, tensor parallel, `DistributedDataParallel`) is tested by all of them, each
    with the loader that it would train with. The loss is the mean over the ranks, so that all find the same curve; the
    first rank shows progress, warns and draws.

    Args:
        model: the model as training would begin with it.
        optimizer: an optimizer of the model's parameters. The rate of its first group is swept; other groups keep their
            ratio to it. While a warm-up holds the rates at 0, the ratio is that of the rates that it climbs to.
        loss_fn: a function from the model's output and the target to a loss of one element.
        loader: an iterable of (input, target) pairs, which are moved to the model's device. It is gone through again
            when it ends.
        start_lr: the first rate. Default: 1e-6.
        end_lr: the last rate. Default: 10.
        steps: the number of mini-batches. Default: 200.
        smoothing: the weight of the past in the moving average, in [0, 1). Default: 0.9.
        divergence: the test ends when the smoothed loss is this many times its minimum, or not finite. If losses are
            negative, it ends when the smoothed loss has risen from its minimum by this factor less 1 times the mean
            size of the losses. Default: 4.
        progress: whether to show a progress bar. Default: None, which shows one if tqdm is installed.
        plot: a file to draw the curve to, as PNG for instance. Default: None.

    Returns:
        The curve, with its `suggestion` and all three `suggestions`. A warning says where there is no suggestion, or
        one at an edge of the sweep.

    Raises:
        ValueError: an argument is out of range, the loader has no batches or does not give pairs, the loss is not one
            number or has no gradient, the optimizer has none of the model's parameters, or the rate of its first group
            is 0 and that of another is not.
        TypeError: an argument is of another kind, such as a model and an optimizer that are swapped, a class in place
            of its instance, or a loader that can be gone through only once.
        RuntimeError: the loss is not finite at the start.
        ModuleNotFoundError: matplotlib is needed to draw, or tqdm for a progress bar that was asked for.

    Example:
        >>> import torch, torch_gd
        >>> _ = torch.manual_seed(0)
        >>> model = torch.nn.Linear(4, 1)
        >>> optimizer = torch_gd.SGD(model.parameters())
        >>> x = torch.randn(32, 4)
        >>> loader = [(x, x.sum(1, keepdim=True))]
        >>> loss_fn = torch.nn.functional.mse_loss
        >>> found = torch_gd.lr_range_test(model, optimizer, loss_fn, loader, steps=30, progress=False)
        >>> optimizer.param_groups[0]["lr"] = found.valley
    """
    if isinstance(model, nn.Module):
        reshard(model.modules())
    checks.kinds(model, optimizer, loss_fn, loader)
    groups = groups_sharing(model)
    if not is_first(groups):
        progress, plot = False, None
    start_lr, end_lr = real("start_lr", start_lr), real("end_lr", end_lr)
    if not 0 < start_lr < end_lr < math.inf:
        raise ValueError(f"Invalid start_lr and end_lr: {start_lr} and {end_lr}; they must be above 0 and rise")
    steps = count("steps", steps, least=10)  # which make a curve
    if not 0 <= real("smoothing", smoothing) < 1:
        raise ValueError(f"Invalid smoothing: {smoothing}; it must be in [0, 1)")
    if not real("divergence", divergence) > 1:
        raise ValueError(f"Invalid divergence: {divergence}; it must be above 1")
    checks.outputs(progress, plot)
    ratios = _ratios(optimizer)

    lrs = [start_lr * (end_lr / start_lr) ** (i / (steps - 1)) for i in range(steps)]
    modules = [module for module in (model, loss_fn) if isinstance(module, nn.Module)]
    losses: list[float] = []
    smoothed: list[float] = []
    average = 0.0
    with everything_restored(modules, optimizer, loader), torch.enable_grad():
        model.train()
        for lr, (x, target) in zip(_with_progress(lrs, progress), _batches(loader, _device(model))):
            loss = loss_fn(model(x), target)
            checks.loss(loss)
            value = mean(loss, groups).item()
            average = smoothing * average + (1 - smoothing) * value
            # The average began at 0; Adam corrects its averages in the same way.
            smooth = average / (1 - smoothing ** (len(losses) + 1))
            if not math.isfinite(value) or (smoothed and smooth > _limit(divergence, losses, min(smoothed))):
                break
            losses.append(value)
            smoothed.append(smooth)
            _set_lr(optimizer, lr, ratios)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it so
            optimizer.step()
    if not losses:
        raise RuntimeError(f"the loss is {value} before the first step; the model or the data is at fault")
    done = len(losses)
    result = LRRangeTest(tuple(lrs[:done]), tuple(losses), tuple(smoothed), diverged=done < steps)
    if result.doubt and is_first(groups):
        warnings.warn(f"lr_range_test: {result.doubt}", stacklevel=3)  # past the decorator
    if plot is not None:
        result.plot(plot)
    return result


def _limit(divergence: float, losses: list[float], lowest: float) -> float:
    """Return the smoothed loss above which the test ends."""
    size = lowest if min(losses) > 0 else math.fsum(map(abs, losses)) / len(losses)
    return lowest + (divergence - 1) * size


def _ratios(optimizer: Optimizer) -> list[float]:
    """Return each group's learning rate divided by the first group's."""
    lrs = [float(group["lr"]) for group in optimizer.param_groups]
    if not any(lrs):  # a schedule's warm-up, which remembers where it climbs to
        lrs = [float(group.get("initial_lr", 0.0)) for group in optimizer.param_groups]
    if not any(lrs):
        return [1.0] * len(lrs)
    if lrs[0] == 0:
        raise ValueError(f"Invalid optimizer: its groups have the rates {lrs}, so the first has no ratio to the others")
    return [lr / lrs[0] for lr in lrs]


def _set_lr(optimizer: Optimizer, lr: float, ratios: list[float]) -> None:
    """Set the learning rate of the first group, and those of the others in their ratio to it."""
    for group, ratio in zip(optimizer.param_groups, ratios):
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(lr * ratio)
        else:
            group["lr"] = lr * ratio


def _batches(loader: Iterable[Any], device: torch.device) -> Iterator[tuple[Any, Any]]:
    """Yield (input, target) pairs on the device, again and again."""
    while True:
        batch = None
        for batch in loader:
            if not isinstance(batch, (tuple, list)) or len(batch) != 2:
                raise ValueError(
                    f"Invalid loader: a batch is {type(batch).__name__}, not an (input, target) pair; wrap it so that "
                    "it gives pairs"
                )
            x, target = (part.to(device) if hasattr(part, "to") else part for part in batch)
            yield x, target
        if batch is None:
            raise ValueError("Invalid loader: it has no batches")


def _device(model: nn.Module) -> torch.device:
    p = next(model.parameters())
    # FSDP2 may keep its shards on the CPU, but computes elsewhere.
    return torch.device(p.device_mesh.device_type) if is_dtensor(p) else p.device  # type: ignore[attr-defined]


def _with_progress(lrs: list[float], progress: bool | None) -> Iterable[float]:
    """Return the rates, with a progress bar around them if it is wanted and can be had."""
    if progress is False:
        return lrs
    try:
        from tqdm.auto import tqdm
    except ModuleNotFoundError as error:
        if progress is None:
            return lrs
        raise ModuleNotFoundError("progress=True needs tqdm, which is not installed: pip install tqdm") from error
    bar: Iterable[float] = tqdm(lrs, desc="learning-rate range test", unit="step", leave=False)
    return bar
