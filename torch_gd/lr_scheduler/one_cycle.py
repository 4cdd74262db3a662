"""The one-cycle schedule, which moves the momentum together with the learning rate."""

from functools import partial

from torch import Tensor
from torch.optim import Optimizer

from .._arguments import real
from . import checks, functions
from .schedule import Schedule
from .warmup import AnyWarmup, steps_after


class OneCycleSchedule(Schedule):
    r"""The 1cycle policy (Smith & Topin 2018): torch's `OneCycleLR` with the base learning rate as its `max_lr`.

    The factor rises from `1 / div_factor` to 1 and falls to `1 / (div_factor * final_div_factor)`, while momentum, or
    Adam's $\beta_1$, goes the other way. As in torch, the last value is that of step `total_steps - 1`.

    Args:
        optimizer: any `torch.optim.Optimizer`.
        total_steps: the length of the run in steps, warm-up included.
        pct_start: the part of the cycle that rises, in [0, 1]. Default: 0.3.
        anneal_strategy: "cos" or "linear". Default: "cos".
        cycle_momentum: whether momentum cycles too. Default: True.
        base_momentum: the momentum at the peak. Default: 0.85.
        max_momentum: the momentum at both ends. Default: 0.95.
        div_factor: the peak divided by the start, 1 or more. Default: 25.
        final_div_factor: the start divided by the end, 1 or more. Default: 1e4.
        three_phase: whether to come down to the start as steeply as it went up, and from there to the end.
            Default: False.
        warmup: a warm-up up to the cycle's start; the types are those of `Schedule`. Default: 0.
        last_epoch: as in `Schedule`.

    Raises:
        ValueError: `cycle_momentum` is given for an optimizer without momentum, or as in `Schedule`.

    Example:
        >>> import torch, torch_gd
        >>> optimizer = torch_gd.SGD([torch.ones(2, requires_grad=True)], lr=0.1, momentum=0.9)
        >>> scheduler = torch_gd.lr_scheduler.OneCycleSchedule(optimizer, total_steps=1000)
        >>> [round(scheduler.factor(step), 3) for step in (0, 299, 999)], scheduler.momentum(299)
        ([0.04, 1.0, 0.0], 0.85)
    """

    def __init__(
        self,
        optimizer: Optimizer,
        total_steps: int,
        pct_start: float = 0.3,
        anneal_strategy: str = "cos",
        cycle_momentum: bool = True,
        base_momentum: float = 0.85,
        max_momentum: float = 0.95,
        div_factor: float = 25.0,
        final_div_factor: float = 1e4,
        three_phase: bool = False,
        warmup: AnyWarmup = 0,
        last_epoch: int = -1,
    ) -> None:
        if cycle_momentum and isinstance(optimizer, Optimizer) and not {"momentum", "betas"} & set(optimizer.defaults):
            raise ValueError(
                f"Invalid cycle_momentum: {type(optimizer).__name__} has neither momentum nor betas; pass False"
            )
        for name, factor in {"div_factor": div_factor, "final_div_factor": final_div_factor}.items():
            if not real(name, factor, finite=True) >= 1:
                raise ValueError(f"Invalid {name}: {factor}; it must be 1 or more, lest the end be above the peak")
        for name, momentum in {"base_momentum": base_momentum, "max_momentum": max_momentum}.items():
            if not 0 <= real(name, momentum) < 1:
                raise ValueError(f"Invalid {name}: {momentum}; it must be in [0, 1)")
        shape = partial(
            functions.one_cycle,
            steps=steps_after(warmup, total_steps),
            peak_at=checks.fraction("pct_start", pct_start),
            three_phase=three_phase,
            anneal=checks.choice("anneal_strategy", anneal_strategy, ("cos", "linear")),
        )
        start = 1.0 / div_factor
        decay = partial(shape, start=start, peak=1.0, end=start / final_div_factor)
        self.cycle_momentum = cycle_momentum
        self._momentum = partial(shape, start=max_momentum, peak=base_momentum, end=max_momentum)
        super().__init__(optimizer, decay, total_steps, warmup, last_epoch)

    def momentum(self, step: float) -> float:
        r"""Return the momentum, or $\beta_1$, at a step."""
        return float(self._momentum(max(0, checks.step(step) - self.warmup_steps)))

    def _update_lr(self, epoch: int | None = None) -> None:
        """Set the learning rates, and the momentum with them. The name is torch's."""
        super()._update_lr(epoch)
        if not self.cycle_momentum:
            return
        momentum = self.momentum(self.last_epoch)
        for group in self.optimizer.param_groups:
            old = group["betas"][0] if "betas" in group else group["momentum"]
            if isinstance(old, Tensor):
                old.fill_(momentum)
            elif "betas" in group:
                group["betas"] = (momentum, *group["betas"][1:])
            else:
                group["momentum"] = momentum
