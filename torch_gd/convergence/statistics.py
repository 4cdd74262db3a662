"""Record what an optimizer's steps do: norms of gradients, weights and updates."""

import math
from collections import deque
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from .._arguments import Described, as_optimizer, count
from .._engine.shards import is_dtensor, local_tensors
from .._engine.sharing import reshard
from ..clipping.norms import tensor_norms
from . import checks
from .whole import add_up, local_grads


class StepStatistics(NamedTuple):
    """Norms of one step, by parameter name.

    A parameter without a gradient has no gradient norm, and an update of 0.
    """

    step: int  # counted from 1
    grad_norms: Mapping[str, float]
    weight_norms: Mapping[str, float]  # before the step
    update_norms: Mapping[str, float]  # of the difference that the step made
    dead_units: Mapping[str, Tensor]  # for each output unit of a weight, whether its gradient is all zero

    @property
    def grad_norm(self) -> float:
        """The global norm of the gradient."""
        return math.hypot(*self.grad_norms.values())

    @property
    def update_ratio(self) -> float:
        """The norm of the update divided by that of the weights, of all parameters; NaN if all weights are 0."""
        weights = math.hypot(*self.weight_norms.values())
        return math.hypot(*self.update_norms.values()) / weights if weights > 0 else math.nan

    def update_ratios(self) -> dict[str, float]:
        """Return the norm of the update divided by that of the weights, by parameter; NaN if its weights are 0."""
        return {
            name: self.update_norms[name] / norm if norm > 0 else math.nan for name, norm in self.weight_norms.items()
        }

    def __repr__(self) -> str:
        parameters = f"{len(self.weight_norms)} parameters"
        return (
            f"StepStatistics(step={self.step}, {parameters}, grad_norm={self.grad_norm:.4g}, "
            f"update_ratio={self.update_ratio:.4g})"
        )


class StepRecorder(Described):
    """A recorder of `StepStatistics` at every N-th step of any optimizer, through its step hooks.

    A step that is recorded costs a copy of the parameters and three passes of norms; any other step costs a comparison.
    Nothing waits for a GPU until `read` is called. Gradients are measured before the step. Where the optimizer itself
    divides them by the loss scale (`torch.amp.GradScaler` with `fused=True`), the recorder divides them too.

    Of parameters that torch.distributed spreads over ranks (FSDP2, tensor parallel), the norms are those of the whole.
    They are added up in the step, in one all-reduce for each set of process groups: every rank must have a recorder,
    with the same `every`. Reading it communicates nothing.

    Args:
        optimizer: any `torch.optim.Optimizer`.
        model: the model, which gives parameters their names and says which of them are embeddings, whose rows do not
            count as units. Default: None, which takes the names of the optimizer's named parameters, or such as
            "group0[3]".
        every: N; steps 1, N + 1, 2 N + 1, … are recorded. Default: 10.
        keep: the number of latest records that are kept. Default: 1000.

    Raises:
        ValueError: `every` or `keep` is below 1 or no whole number, none of the model's parameters is the optimizer's,
            or gradients are released during backward (`torch_gd.release_gradients`); if that comes later, a step
            raises.
        TypeError: `optimizer` or `model` is of another kind, for example because they are swapped, or `every` or `keep`
            is no number.

    Example:
        >>> import torch, torch_gd
        >>> from torch_gd.convergence import StepRecorder
        >>> model = torch.nn.Linear(2, 1)
        >>> optimizer = torch_gd.SGD(model.parameters(), lr=0.1)
        >>> recorder = StepRecorder(optimizer, model, every=100)
        >>> model(torch.ones(1, 2)).sum().backward()
        >>> optimizer.step()
        >>> {name: round(norm, 3) for name, norm in recorder.read()[-1].grad_norms.items()}
        {'weight': 1.414, 'bias': 1.0}
        >>> recorder.close()
    """

    def __init__(
        self, optimizer: Optimizer, model: nn.Module | None = None, *, every: int = 10, keep: int = 1000
    ) -> None:
        self.optimizer = as_optimizer(optimizer, "it comes first, then the model", needs="register_step_pre_hook")
        if model is not None and not are_related(optimizer, checks.model(model)):
            raise ValueError("Invalid model: none of its parameters is the optimizer's")
        _check_gradients_are_kept(optimizer)
        self.every, self.keep = count("every", every), count("keep", keep)
        self.steps = 0
        self.sizes: dict[str, int] = {}
        self._model = model
        self._records: deque[StepStatistics] = deque(maxlen=self.keep)
        self._pending: deque[_Pending] = deque(maxlen=self.keep)
        self._before: _Before | None = None
        self._hooks = (
            optimizer.register_step_pre_hook(self._pre_step),
            optimizer.register_step_post_hook(self._post_step),
        )

    def read(self) -> list[StepStatistics]:
        """Return the records, oldest first; waits for a GPU that has not computed them yet."""
        while self._pending:
            self._records.append(self._pending.popleft().read())
        return list(self._records)

    @property
    def recorded(self) -> int:
        """The number of records that are kept."""
        return min(len(self._records) + len(self._pending), self.keep)

    def parameters(self) -> dict[str, Tensor]:
        """Return the optimizer's parameters by name, each once."""
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
        """Remove the hooks from the optimizer; the records stay readable."""
        for hook in self._hooks:
            hook.remove()

    def _state(self) -> str:
        if "_records" not in self.__dict__:  # the constructor has not come so far
            return ""
        return f"steps: {self.steps}, recorded: {self.recorded}"

    def _pre_step(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._before = None  # a step that raised has left its own
        _check_gradients_are_kept(optimizer)
        self.steps += 1
        if (self.steps - 1) % self.every == 0:
            named = self.parameters()
            self.sizes = {name: p.numel() for name, p in named.items()}
            shards = local_tensors(named.values())
            # A closure computes the gradients during the step; before it they are still those of the last step.
            closure = args[1] if len(args) > 1 else kwargs.get("closure")  # args[0] is the optimizer
            gradients = None if closure is not None else self._gradients(named)
            with torch.no_grad():
                self._before = _Before(named, gradients, tensor_norms(shards), [shard.clone() for shard in shards])

    def _post_step(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        before, self._before = self._before, None
        if before is None:
            return
        gradients = before.gradients or self._gradients(before.parameters)
        names, parameters = list(before.parameters), list(before.parameters.values())
        with torch.no_grad():
            shards = [shard.detach() for shard in local_tensors(parameters)]
            updates = tensor_norms(torch._foreach_sub(shards, before.copies))
            norms = add_up(parameters, [gradients.norms, before.weights, updates], gradients.used_rows)
        self._pending.append(_Pending(self.steps, names, gradients.present, norms, gradients.used_rows))

    @torch.no_grad()
    def _gradients(self, named: dict[str, Tensor]) -> "_Gradients":
        """Measure the gradients that there are now."""
        parameters = list(named.values())
        grads = local_grads(parameters)
        norms = tensor_norms([grad for grad in grads if grad is not None])
        scale = getattr(self.optimizer, "grad_scale", None)
        if scale is not None:
            norms = norms / scale.to(norms.device)
        if len(norms) < len(parameters):
            found, zero = iter(norms.unbind()), norms.new_zeros(())
            norms = torch.stack([zero if grad is None else next(found) for grad in grads])
        embeddings: set[int] = set()
        if self._model is not None:
            tables = (m for m in self._model.modules() if isinstance(m, (nn.Embedding, nn.EmbeddingBag)))
            embeddings = {id(table.weight) for table in tables}
        used_rows: dict[int, Tensor] = {}
        for i, (p, shard, grad) in enumerate(zip(parameters, local_tensors(parameters), grads)):
            if p.dim() < 2 or id(p) in embeddings:
                continue
            if grad is not None and grad.layout == torch.strided:
                used_rows[i] = grad.flatten(1).any(1)
            elif is_dtensor(p):  # another rank may have a gradient, and its rows to add up
                used_rows[i] = torch.zeros(len(shard), dtype=torch.bool, device=shard.device)
        return _Gradients([grad is not None for grad in grads], norms, used_rows)


def _check_gradients_are_kept(optimizer: Optimizer) -> None:
    if getattr(optimizer, "_rest_of_step", None) is not None:
        raise ValueError(
            "Invalid optimizer: release_gradients() frees its gradients during backward, and none is left to record; "
            "close() the recorder or monitor, or remove() the release"
        )


def are_related(optimizer: Optimizer, model: nn.Module) -> bool:
    """Return whether the optimizer has a parameter of the model's, or none at all."""
    reshard(model.modules())
    own = {id(p) for group in optimizer.param_groups for p in group["params"]}
    return not own or not own.isdisjoint(map(id, model.parameters()))


class _Gradients(NamedTuple):
    """What is measured of the gradients, by the index of their parameter."""

    present: list[bool]
    norms: Tensor  # 0 where there is no gradient
    used_rows: dict[int, Tensor]  # of a weight: whether the gradient of a row has an element other than 0


class _Before(NamedTuple):
    """What is remembered of the parameters from before a step; of those that are spread, this rank's shards."""

    parameters: dict[str, Tensor]
    gradients: _Gradients | None
    weights: Tensor
    copies: list[Tensor]


class _Pending(NamedTuple):
    """A record whose numbers the GPU may not have computed yet."""

    step: int
    names: list[str]
    has_gradient: list[bool]
    norms: list[Tensor]  # of gradients, weights and updates
    used_rows: dict[int, Tensor]

    def read(self) -> StepStatistics:
        """Return the record, and wait for its numbers."""
        gradients, weights, updates = (dict(zip(self.names, norms.tolist())) for norms in self.norms)
        present = {name for name, there in zip(self.names, self.has_gradient) if there}
        return StepStatistics(
            self.step,
            {name: norm for name, norm in gradients.items() if name in present},
            weights,
            updates,
            {self.names[i]: ~used.cpu() for i, used in self.used_rows.items() if self.names[i] in present},
        )
