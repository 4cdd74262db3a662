"""Nesterov's accelerated gradient."""

from torch import Tensor
from torch.optim.optimizer import ParamsT

from .._engine.precision import Precision
from ..clipping.policies import ClipPolicy
from . import checks
from .sgd import SGD


class NAG(SGD):
    r"""Nesterov's accelerated gradient (Nesterov 1983, in the form of Sutskever et al. 2013).

    .. math:: b_t = \mu b_{t-1} + g_t + \lambda \theta_{t-1}, \quad
              \theta_t = \theta_{t-1} - \gamma (g_t + \lambda \theta_{t-1} + \mu b_t)

    Equal to `torch.optim.SGD(nesterov=True)`, whose checkpoints it shares.

    Args:
        params: parameters, (name, parameter) pairs, or dicts that define groups; of any shape and dense layout.
        lr: learning rate, a number or a one-element tensor. Default: 1e-3.
        momentum: :math:`\mu`, above 0. Default: 0.9.
        weight_decay: L2 penalty :math:`\lambda`. Default: 0.
        maximize: ascend instead. Default: False.
        foreach: as in `SGD`. Default: None.
        differentiable: as in `SGD`. Default: False.
        fused: as in `SGD`. Default: None.
        clip: a policy of `torch_gd.clipping`, or a number for `ClipByGlobalNorm`; not in torch. Default: None.
        l1: decoupled L1 penalty, a soft threshold of lr · l1 after each update; not in torch. Default: 0.
        precision: a `torch_gd.Precision`, or a number of bytes a parameter; not in torch. Default: None.

    Raises:
        ValueError: an argument out of range.
        RuntimeError, TypeError: as in `SGD`.

    Example:
        >>> import torch, torch_gd
        >>> model = torch.nn.Linear(3, 1)
        >>> optimizer = torch_gd.NAG(model.parameters(), lr=0.1)
        >>> model(torch.ones(2, 3)).sum().backward()
        >>> optimizer.step()
    """

    @checks.right_names
    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        momentum: float = 0.9,
        weight_decay: float | Tensor = 0,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        differentiable: bool = False,
        fused: bool | None = None,
        clip: ClipPolicy | float | None = None,
        l1: float = 0.0,
        precision: Precision | float | str | None = None,
    ) -> None:
        super().__init__(
            params,
            lr,
            momentum,
            weight_decay=weight_decay,
            nesterov=True,
            maximize=maximize,
            foreach=foreach,
            differentiable=differentiable,
            fused=fused,
            clip=clip,
            l1=l1,
            precision=precision,
        )
