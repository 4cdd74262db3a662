"""SGD with decoupled weight decay."""

from dataclasses import replace

import torch
from torch import Tensor

from .._engine import backend
from .._engine.spec import FusedTensors, Group, LoopTensors, TorchFlags, UpdateSpec
from .sgd import SGD, fused_cpu


class SGDW(SGD):
    r"""SGD with momentum and decoupled weight decay (Loshchilov & Hutter 2019).

    .. math:: b_t = \mu b_{t-1} + (1 - \tau) g_t, \quad
              \theta_t = (1 - \gamma \lambda) \theta_{t-1} - \gamma b_t

    The decay is multiplied by the learning rate, as timm's `SGDW` does it. In the paper it is not, but both follow one
    schedule: for the paper's decay :math:`\lambda'` at rate :math:`\gamma_0`, pass :math:`\lambda' / \gamma_0`. What
    `nesterov` and the first step do is as in `SGD`, whose states it shares.

    Args:
        params: as in `SGD`, and so are all that follow but `weight_decay`.
        lr: learning rate :math:`\gamma`. Default: 1e-3.
        momentum: :math:`\mu`. Default: 0.
        dampening: :math:`\tau`. Default: 0.
        weight_decay: :math:`\lambda`, decoupled. Default: 0.
        nesterov, maximize, foreach, differentiable, fused, clip, l1, precision: as in `SGD`.

    Raises:
        ValueError, RuntimeError, TypeError: as in `SGD`.

    Example:
        >>> import torch, torch_gd
        >>> model = torch.nn.Linear(3, 1)
        >>> optimizer = torch_gd.SGDW(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3)
        >>> model(torch.ones(2, 3)).sum().backward()
        >>> optimizer.step()
    """

    @staticmethod
    def spec(group: Group) -> UpdateSpec:
        """Return the rule and what torch offers for it."""
        return replace(
            SGD.spec(group),
            rule=backend.rules and backend.rules.SGDW,
            hyperparameters=("lr", "weight_decay", "momentum", "dampening"),
            options=(group["nesterov"],),
            fused_cpu=_fused_cpu,
            lazy_dtype=lambda group, p, g: g.dtype,
        )

    @staticmethod
    def torch_step(group: Group, tensors: LoopTensors, flags: TorchFlags) -> None:
        """Decay the parameters, and call torch's functional implementation of SGD."""
        _decay(group, tensors.params, flags.found_inf)
        SGD.torch_step({**group, "weight_decay": 0}, tensors, flags)


def _fused_cpu(group: Group, tensors: FusedTensors) -> bool:
    _decay(group, tensors.params)
    return fused_cpu({**group, "weight_decay": 0}, tensors)


def _decay(group: Group, params: list[Tensor], found_inf: Tensor | None = None) -> None:
    if group["weight_decay"] == 0:
        return
    decay = 1 - group["lr"] * group["weight_decay"]
    if found_inf is not None:  # the step may be left out
        decay = torch.where(found_inf != 0, 1.0, decay)
    torch._foreach_mul_(params, decay.reshape(()) if isinstance(decay, Tensor) else float(decay))
