"""Steps during backward, so that gradients never are in memory together: `release_gradients`.

```python
import torch
import torch_gd

model = torch.nn.Sequential(torch.nn.Linear(8, 32), torch.nn.ReLU(), torch.nn.Linear(32, 2))
optimizer = torch_gd.AdamW(model.parameters(), lr=3e-4)
scheduler = torch_gd.lr_scheduler.CosineAnnealingLR(optimizer, T_max=10)
torch_gd.release_gradients(model, optimizer)
for _ in range(10):
    model(torch.randn(4, 8)).pow(2).mean().backward()  # updates parameters, and frees their gradients
    optimizer.step()  # updates the few that are left
    scheduler.step()
```

The loop stays as it is, and so do the values. What waits at any time is `bucket_bytes` of gradients and one more, in
place of all: in float32, 4 bytes a parameter less. Gradients are collected in buckets of many tensors, each updated by
one launch; the first backward pass forms the buckets, and all others meet them again.

| | with released gradients |
|---|---|
| `optimizer.step()` | once after every `backward()`: updates what is left, runs hooks, counts for schedulers |
| `optimizer.zero_grad()` | not needed; does no harm |
| learning rates and other options | read during `backward()`: change them before it, as schedulers do |
| `clip=ClipByValue(…)`, `ClipAdaptive(…)` | exact |
| `clip=ClipByGlobalNorm(…)` | refused, or with `norm="previous"` |
| `clip_grad_norm_` before `step()` | would miss what is gone; raises in `step()` where it has changed what is left |
| gradient accumulation, several `backward()` a step | refused: one must be complete before it can be freed |
| `checkpoint(use_reentrant=True)` | refused, for it calls `backward()` in `backward()`; `use_reentrant=False` works |
| `torch.amp.GradScaler`, float16 autocast | refused: it must see all gradients before the first update; use bfloat16 |
| `DistributedDataParallel`, FSDP1 | refused: they add up gradients after they have been released |
| `fully_shard` (FSDP2), tensor parallel | the same values; `LAMB`, `LARS`, `ClipAdaptive` refused: they measure all |
| `Monitor`, `StepRecorder` | refused: there is no gradient left for them to measure |
| `precision=` | the same values, to the bit |
| `torch.compile` | the same values; a compiled graph gives all its gradients at once, so that less memory is saved |

Values are the same to the bit with our kernels and torch's fused ones. Where torch has none, on the CPU, the number of
tensors decides between its for-loop and its foreach, which differ in the last bit, unless `foreach=` is given.

`norm="previous"` clips by the global norm of the step before. Where the gradients of this step that have arrived so far
have a larger norm already, by that one; so the first step, which has none before it, clips each bucket by the norm of
all gradients up to it. `optimizer.last_norm` is that of all gradients, as ever.

A parameter whose gradient does not come leaves its bucket incomplete: the bucket is then updated when others need the
room, or in `step()`. If a backward pass fails in its middle, what has been updated stays so; call `zero_grad()` and
`step()` to go on with the next one. The same parameter may be used any number of times in one backward pass.
"""

from math import prod
from operator import is_
from threading import Lock
from types import TracebackType
from typing import Any, Literal
from weakref import ref

import torch
from torch import Tensor, nn

from .._arguments import as_optimizer, count, found
from .._engine.buckets import Buckets
from .._engine.clip import Clip, version_of
from .._engine.parts import ids_in_turn
from .._engine.ranks import groups_of
from .._engine.sharing import reshard
from ..clipping.previous_norm import ClipByPreviousNorm
from . import release_checks as checks
from .base import FusedOptimizer

BUCKET_BYTES = 32 * 2**20  # AdamW moves 7 bytes for each: some 75 µs at 3 TB/s, several times what a launch takes


class GradientRelease:
    """What `release_gradients` returns. `remove()` ends it, as does the end of a `with` block.

    Attributes:
        bucket_bytes: bytes of gradients that may wait on a device.
    """

    def __init__(self, model: nn.Module, optimizer: FusedOptimizer, bucket_bytes: int, by_previous: bool) -> None:
        self.bucket_bytes = bucket_bytes
        self._model, self._optimizer, self._by_previous = model, optimizer, by_previous
        self._lock = Lock()  # each device has a thread for its backward pass
        self._task = -1  # the backward pass whose gradients arrive
        self._arrived: dict[Tensor, int | None] = {}  # since the last step, with the versions of their gradients
        self._clip: Clip | None = None  # as the engine is given it
        self._hooks: list[Any] = []
        self._watch()
        checks.models.add(model)
        self._forward_hook = model.register_forward_pre_hook(checks.check_forward)
        optimizer._rest_of_step = self._take_rest
        optimizer._declare_amp()

    def remove(self) -> None:
        """Go back to ordinary steps, of which the next one updates what has arrived and waits."""
        for hook in (*self._hooks, self._forward_hook):
            hook.remove()
        checks.models.discard(self._model)
        if self._optimizer._rest_of_step == self._take_rest:  # else another release has followed
            self._optimizer._rest_of_step = None
            self._optimizer._declare_amp()

    def __enter__(self) -> "GradientRelease":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()

    def __repr__(self) -> str:
        name = type(self._optimizer).__name__
        return f"GradientRelease({name}, bucket_bytes={self.bucket_bytes}): {len(self._buckets)} buckets"

    # --- Before a backward pass --------------------------------------------------------------------------------------

    def _watch(self) -> None:
        """Have gradients announced, and begin with new buckets."""
        groups = self._optimizer.param_groups
        self._params = self._trainable()
        self._over_ranks = any(groups_of(self._params))
        checks.check_groups(self._optimizer, self._over_ranks)
        self._choose_clip()  # the last thing that may be refused
        names = {p: name for name, p in self._model.named_parameters()}
        in_turn = ids_in_turn(groups)  # they are left to step(), which takes them in their order
        self._places: dict[Tensor, tuple[int, str, int, int]] = {}  # group, name, number, and bytes of the gradient
        numbers = {p: number for number, p in enumerate(p for group in groups for p in group["params"])}
        for i, group in enumerate(groups):
            for j, p in enumerate(group["params"]):
                if p.requires_grad and id(p) not in in_turn:
                    self._places[p] = i, names.get(p, f"group{i}[{j}]"), numbers[p], _bytes_on_a_rank(p)
        self._buckets = Buckets(self._optimizer._engine.algorithm, self.bucket_bytes)
        for hook in self._hooks:
            hook.remove()
        this = ref(self)  # parameters may outlive the optimizer
        self._hooks = [p.register_post_accumulate_grad_hook(lambda p: _announce(this, p)) for p in self._places]  # type: ignore[no-untyped-call]  # torch leaves it so

    def _trainable(self) -> list[Tensor]:
        return [p for group in self._optimizer.param_groups for p in group["params"] if p.requires_grad]

    def _choose_clip(self) -> None:
        """Find what the engine is to be given for the optimizer's policy, which may have changed."""
        policy = self._optimizer.clip
        if not self._by_previous:
            checks.check_clip(policy, self._over_ranks)
            self._clip = policy
        elif not (isinstance(self._clip, ClipByPreviousNorm) and self._clip.policy is policy):
            before, suitable = self._clip, checks.by_previous_norm(policy, self._params)
            self._clip = ClipByPreviousNorm(suitable, self._params[0].device)
            if isinstance(before, ClipByPreviousNorm):
                self._clip.go_on_from(before)

    # --- During a backward pass --------------------------------------------------------------------------------------

    def arrive(self, p: Tensor) -> None:
        """Take a gradient that is complete, and update a bucket if many wait."""
        with self._lock, torch.no_grad():
            task = torch._C._current_graph_task_id()
            if not self._arrived:
                trainable = self._trainable()
                if len(trainable) != len(self._params) or not all(map(is_, trainable, self._params)):
                    self._watch()
                self._choose_clip()
                self._task = task
            if p not in self._places:  # it has left the optimizer
                return
            group, name, number, nbytes = self._places[p]
            if p in self._arrived or task != self._task:
                raise RuntimeError(f"release_gradients: the gradient of {name!r} comes from {checks.SECOND_BACKWARD}")
            if p.grad is None or p.grad.requires_grad:
                raise RuntimeError(
                    f"release_gradients: the gradient of {name!r} has a graph of its own, as after "
                    "backward(create_graph=True), which an update now would spoil; keep gradients"
                )
            self._arrived[p] = version_of(p.grad)
            bucket = self._buckets.take(p, group, name, number, nbytes)
            if bucket is not None:
                bucket.update(self._optimizer.param_groups, self._optimizer.state, self._clip)

    # --- In step() ---------------------------------------------------------------------------------------------------

    def _take_rest(self, grad_scale: object, found_inf: object) -> None:
        """Update what is left, let go of its gradients, and begin the next step."""
        optimizer = self._optimizer
        if grad_scale is not None or found_inf is not None:
            raise RuntimeError(f"release_gradients: parameters have been updated by scaled gradients; {checks.SCALED}")
        for p, version in self._arrived.items():
            if p.grad is not None and version_of(p.grad) != version:
                raise RuntimeError(
                    f"release_gradients: the gradient of {self._places[p][1]!r} has been changed since backward(), as "
                    "by clip_grad_norm_, but others were gone by then; use the optimizer's clip=, or keep gradients"
                )
        self._choose_clip()
        optimizer._engine.step(optimizer.param_groups, optimizer.state, self._clip)
        for group in optimizer.param_groups:
            for p in group["params"]:
                p.grad = None
        if isinstance(self._clip, ClipByPreviousNorm):
            optimizer._engine.results[self._params[0].device] = self._clip.end_step()
        self._arrived.clear()
        self._buckets.forget_waiting()


def release_gradients(
    model: nn.Module,
    optimizer: FusedOptimizer,
    *,
    bucket_bytes: int = BUCKET_BYTES,
    norm: Literal["previous"] | None = None,
) -> GradientRelease:
    """Update parameters during `backward()`, and free each gradient as soon as it has been used.

    The training loop and its values stay as they are; `torch_gd.optimizers.release` says what cannot be had with it.

    Args:
        model: the model, as it is trained.
        optimizer: one of this package's, of the model's parameters.
        bucket_bytes: bytes of gradients that may wait on a device until they are updated together. Default: 32 MiB.
        norm: "previous" has `ClipByGlobalNorm` clip by the norm of the step before. Default: None, which refuses it.

    Returns:
        A `GradientRelease`. Its `remove()` undoes everything; it is also a context manager.

    Raises:
        TypeError: an argument of another kind.
        ValueError: `bucket_bytes` or `norm` is out of range, none of the model's parameters is the optimizer's, or
            optimizer, policy or model need all gradients at once.
        RuntimeError: the optimizer's gradients are released already.

    Example:
        >>> import torch, torch_gd
        >>> model = torch.nn.Linear(2, 1)
        >>> optimizer = torch_gd.SGD(model.parameters(), lr=0.1)
        >>> with torch_gd.release_gradients(model, optimizer, bucket_bytes=1):
        ...     model(torch.ones(1, 2)).sum().backward()
        ...     print(model.weight.grad, model.bias.grad)
        ...     optimizer.step()
        None None
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"Invalid model: {found(model)}; it comes first, then the optimizer")
    inside = as_optimizer(optimizer, "it comes second, after the model")
    inside = inside.__dict__.get("_optimizer", inside)  # Lightning's wrappers are of our class as well
    if not isinstance(inside, FusedOptimizer):
        raise TypeError(f"Invalid optimizer: {found(inside)}; pass one of torch_gd's, without a wrapper")
    bucket_bytes = count("bucket_bytes", bucket_bytes)
    if norm not in (None, "previous"):
        raise ValueError(f'Invalid norm: {found(norm)}; it must be "previous" or None')
    if inside._rest_of_step is not None:
        raise RuntimeError("release_gradients: this optimizer's gradients are released already; remove() that first")
    reshard(model.modules())
    checks.check_model(model, [p for group in inside.param_groups for p in group["params"]])
    return GradientRelease(model, inside, bucket_bytes, norm == "previous")


def _announce(release: "ref[GradientRelease]", p: Tensor) -> None:
    there = release()
    if there is not None:
        there.arrive(p)


def _bytes_on_a_rank(p: Tensor) -> int:
    """Return the bytes of a gradient, those of the largest part where ranks have parts: the same on all of them."""
    parts = prod(group.size() for group in groups_of([p])[0])
    return int(-(-p.numel() * p.element_size() // parts))
