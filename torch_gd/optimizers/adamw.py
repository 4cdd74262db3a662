"""AdamW: Adam whose weight decay is the parameter's own, not the gradient's."""

from typing import Any

from torch import Tensor
from torch.optim.optimizer import ParamsT

from .._engine.precision import Precision
from ..clipping.policies import ClipPolicy
from . import checks
from .adam import Adam


class AdamW(Adam):
    r"""AdamW (Loshchilov & Hutter 2019), as `torch.optim.AdamW`.

    .. math:: m_t = \beta_1 m_{t-1} + (1 - \beta_1) g_t, \quad v_t = \beta_2 v_{t-1} + (1 - \beta_2) g_t^2, \quad
              \theta_t = (1 - \gamma \lambda) \theta_{t-1} -
              \gamma \frac{m_t / (1 - \beta_1^t)}{\sqrt{v_t / (1 - \beta_2^t)} + \epsilon}

    Args:
        params: parameters, (name, parameter) pairs, or dicts that define groups; of any shape and dense layout.
        lr: learning rate :math:`\gamma`, a number or a one-element tensor. Default: 1e-3.
        betas: both numbers or both one-element tensors. Default: (0.9, 0.999).
        eps: :math:`\epsilon`. Default: 1e-8.
        weight_decay: :math:`\lambda`. Default: 1e-2.
        amsgrad: divide by the largest second moment so far. Default: False.
        maximize: ascend instead. Default: False.
        foreach: True or False takes torch's foreach or for-loop implementation. Default: None, the fastest there is.
        capturable: keep counters on the GPU, so that a CUDA graph can hold the step. Default: False.
        differentiable: let autograd see the step; torch's for-loop implementation. Default: False.
        fused: True insists on a fused implementation and takes part in `torch.amp.GradScaler`'s unscaling; False takes
            torch's. Default: None, the fastest there is.
        clip: a policy of `torch_gd.clipping`, or a number for `ClipByGlobalNorm`; not in torch. Default: None.
        l1: decoupled L1 penalty, a soft threshold of lr · l1 after each update; not in torch. Default: 0.
        precision: a `torch_gd.Precision`, or a number of bytes a parameter; not in torch. Default: None.

    Raises:
        ValueError: an argument out of range, or a tensor where torch takes none.
        RuntimeError: `fused` together with `differentiable` or `foreach`, or for a parameter that no fused
            implementation serves.
        TypeError: `clip` is neither a policy nor a number.

    Example:
        >>> import torch, torch_gd
        >>> model = torch.nn.Linear(3, 1)
        >>> optimizer = torch_gd.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1)
        >>> model(torch.ones(2, 3)).sum().backward()
        >>> optimizer.step()
    """

    @checks.right_names
    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        clip: ClipPolicy | float | None = None,
        l1: float = 0.0,
        precision: Precision | float | str | None = None,
    ) -> None:
        super().__init__(
            params,
            lr,
            betas,
            eps,
            weight_decay,
            amsgrad,
            foreach=foreach,
            maximize=maximize,
            capturable=capturable,
            differentiable=differentiable,
            fused=fused,
            decoupled_weight_decay=True,
            clip=clip,
            l1=l1,
            precision=precision,
        )

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for group in self.param_groups:
            group["decoupled_weight_decay"] = True  # a checkpoint of Adam may have been loaded
