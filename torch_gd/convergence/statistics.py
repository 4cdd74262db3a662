"""What an optimizer's steps did: norms of gradients, weights and updates, taken around the steps asked for."""

import math
from collections import deque
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ..clipping.norms import tensor_norms


class StepStatistics(NamedTuple):
    """One step, by parameter name. A parameter without a gradient has no gradient norm and an update of 0."""

    step: int  # from 1
    grad_norms: Mapping[str, float]
    weight_norms: Mapping[str, float]  # before the step
    update_norms: Mapping[str, float]  # of what the step added
    dead_units: Mapping[str, Tensor]  # bool, one for each output unit of a weight whose gradient is all zero

    @property
    def grad_norm(self) -> float:
        """Global norm of the gradient."""
        return math.hypot(*self.grad_norms.values())

    @property
    def update_ratio(self) -> float:
        """Norm of the update over that of the weights, all parameters together; NaN where all weights are 0."""
        weights = math.hypot(*self.weight_norms.values())
        return math.hypot(*self.update_norms.values()) / weights if weights > 0 else math.nan

    def update_ratios(self) -> dict[str, float]:
        """Norm of the update over that of the weights, by parameter; NaN where the weights are 0."""
        return {
            name: self.update_norms[name] / norm if norm > 0 else math.nan for name, norm in self.weight_norms.items()
        }


class StepRecorder:
    """Records `StepStatistics` of every N-th step of any optimizer, through its step hooks.

    A step that is recorded costs a copy of the parameters and a few multi-tensor norms; the others cost a comparison.
    Nothing waits for a GPU until `read` is called. Gradients are taken before the step, as it finds them; divided by
    the loss scale where the optimizer does that itself (`torch.amp.GradScaler` with `fused=True`).

    Args:
        optimizer: any `torch.optim.Optimizer`.
        model: gives parameters their names, and says which are embeddings, whose rows are no units. Default: None, the
            optimizer's own names if it was given named parameters, else "group0[3]".
        every: record steps 1, N + 1, 2 N + 1, … Default: 10.
        keep: the last so many records are kept. Default: 1000.

    Raises:
        ValueError: `every` or `keep` below 1.

    Example:
        >>> recorder = StepRecorder(optimizer, model, every=100)
        >>> recorder.read()[-1].update_ratio  # after some steps
    """

    def __init__(
        self, optimizer: Optimizer, model: nn.Module | None = None, *, every: int = 10, keep: int = 1000
    ) -> None:
        for argument, value in (("every", every), ("keep", keep)):
            if value < 1:
                raise ValueError(f"Invalid {argument}: {value}; it must be 1 or more")
        self.optimizer = optimizer
        self.every = every
        self.steps = 0
        self._model = model
        self._records: deque[StepStatistics] = deque(maxlen=keep)
        self._pending: deque[_Pending] = deque(maxlen=keep)
        self._before: _Before | None = None
        self._hooks = (
            optimizer.register_step_pre_hook(self._pre_step),
            optimizer.register_step_post_hook(self._post_step),
        )

    def read(self) -> list[StepStatistics]:
        """The records, oldest first; waits for a GPU that has not computed them yet."""
        while self._pending:
            self._records.append(self._pending.popleft().read())
        return list(self._records)

    def parameters(self) -> dict[str, Tensor]:
        """The optimizer's parameters by name, each once."""
        known: dict[int, str] = {}
        if self._model is not None:
            known = {id(p): name for name, p in self._model.named_parameters()}
        names: dict[str, Tensor] = {}
        seen: set[int] = set()
        for i, group in enumerate(self.optimizer.param_groups):
            own = group.get("param_names")
            for j, p in enumerate(group["params"]):
                if id(p) not in seen:
                    seen.add(id(p))
                    names[known.get(id(p), own[j] if own is not None else f"group{i}[{j}]")] = p
        return names

    def close(self) -> None:
        """Takes the hooks off the optimizer; what was recorded stays readable."""
        for hook in self._hooks:
            hook.remove()

    def _pre_step(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.steps += 1
        if (self.steps - 1) % self.every == 0:
            named = self.parameters()
            parameters = list(named.values())
            # A closure makes the gradients during the step; before it they are those of the step before.
            closure = args[1] if len(args) > 1 else kwargs.get("closure")  # args[0] is the optimizer
            gradients = None if closure is not None else self._gradients(named)
            with torch.no_grad():
                self._before = _Before(named, gradients, tensor_norms(parameters), [p.clone() for p in parameters])

    def _post_step(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        before, self._before = self._before, None
        if before is None:
            return
        parameters = list(before.parameters.values())
        with torch.no_grad():
            updates = tensor_norms(torch._foreach_sub([p.detach() for p in parameters], before.copies))
        gradients = before.gradients or self._gradients(before.parameters)
        self._pending.append(_Pending(self.steps, list(before.parameters), gradients, before.weights, updates))

    @torch.no_grad()
    def _gradients(self, named: dict[str, Tensor]) -> "_Gradients":
        present = {name: p.grad for name, p in named.items() if p.grad is not None}
        norms = tensor_norms(list(present.values()))
        scale = getattr(self.optimizer, "grad_scale", None)
        if scale is not None:
            norms = norms / scale.to(norms.device)
        embeddings: set[int] = set()
        if self._model is not None:
            tables = (m for m in self._model.modules() if isinstance(m, (nn.Embedding, nn.EmbeddingBag)))
            embeddings = {id(table.weight) for table in tables}
        dead = {
            name: ~grad.flatten(1).any(1)
            for name, grad in present.items()
            if grad.dim() > 1 and grad.layout == torch.strided and id(named[name]) not in embeddings
        }
        return _Gradients(list(present), norms, dead)


class _Gradients(NamedTuple):
    names: list[str]
    norms: Tensor
    dead: dict[str, Tensor]


class _Before(NamedTuple):
    parameters: dict[str, Tensor]
    gradients: _Gradients | None
    weights: Tensor
    copies: list[Tensor]


class _Pending(NamedTuple):
    """A record whose numbers may not have been computed yet."""

    step: int
    names: list[str]
    gradients: _Gradients
    weights: Tensor
    updates: Tensor

    def read(self) -> StepStatistics:
        return StepStatistics(
            self.step,
            dict(zip(self.gradients.names, self.gradients.norms.tolist())),
            dict(zip(self.names, self.weights.tolist())),
            dict(zip(self.names, self.updates.tolist())),
            {name: dead.cpu() for name, dead in self.gradients.dead.items()},
        )
