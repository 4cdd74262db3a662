"""Gradient clipping: inside an optimizer's step, or by functions before it.

## Inside the step

`clip_grad_norm_` before a step reads the gradients twice and writes them once more. An optimizer of this package
clips as it reads them:

```python
import torch
import torch_gd

model = torch.nn.Linear(8, 2)
clip = torch_gd.ClipByGlobalNorm(1.0)  # a number, clip=1.0, means the same
optimizer = torch_gd.AdamW(model.parameters(), lr=3e-4, clip=clip)
model(torch.randn(4, 8)).pow(2).mean().backward()
optimizer.step()
norm = optimizer.last_norm  # a tensor on the device; nothing has waited for it
```

| policy | equal to calling first |
|---|---|
| `ClipByGlobalNorm(max_norm, norm_type=2.0, skip_nonfinite=False)` | `clip_grad_norm_`, over all groups |
| `ClipByValue(clip_value)` | `clip_grad_value_` |
| `ClipAdaptive(clipping=0.01, eps=1e-3)` | `clip_grad_adaptive_` (Brock et al. 2021, timm's defaults) |
| a subclass of `ClipPolicy` with a method `apply` | your own pass over the gradients |

`clip=1.0` stands for `ClipByGlobalNorm(1.0)`. The policy belongs to the optimizer, not to a group, and may be changed
at any time: `optimizer.clip = None`.

It is saved as text, with the number of skipped steps, under "clip_policy" in each group of the optimizer's state_dict.
torch's optimizers carry it along and ignore it; `load_state_dict` restores it with the other hyperparameters, and
leaves the policy as it is if the checkpoint says nothing of one.

`torch.distributed.checkpoint` keeps it as well, nested, flat or whole, whatever the policy was that the checkpoint's
replaces. But it asks a checkpoint for every option that the groups have now. One that has no policy or no `l1`, such as
torch's, loads with `DefaultLoadPlanner(allow_partial_load=True)`, or into an optimizer without these; set
`optimizer.clip` and the groups' `l1` afterwards. An optimizer without a policy takes none from its files.

- On our kernels gradients are left as they are. The norm costs one pass over the gradients and one small block; its
  float32 partial sums are added in double, in an order that never changes. On torch's routes gradients are clipped in
  place, as torch's functions do.
- `skip_nonfinite` leaves out a step whose norm is NaN or infinite; `optimizer.skipped_steps` counts these on the
  device.
- `optimizer.last_norm` and `optimizer.last_coefficient` return copies, which later steps do not change. Inside the
  capture of a CUDA graph they return the graph's own tensors, which each replay fills anew.

## With `torch.amp.GradScaler` and Lightning

A GradScaler works with every optimizer. With `fused=True` or a policy, unscaling, clipping and skipping are part of
the step, in the right order whether or not `scaler.unscale_` was called. From then on step counters live on the GPU,
as torch's fused optimizers keep them. In Lightning choose one of the two: `Trainer(gradient_clip_val=…)` with an
optimizer that has neither a policy nor `fused=True`, or `clip=` and no `gradient_clip_val`. With both, Lightning
refuses under mixed precision, and clips twice otherwise.

## More than one GPU

Policies and functions take the norms of the whole model, under FSDP2, tensor parallel and others; the guide is
`torch_gd.distributed`.

## Functions

`clip_grad_norm_`, `clip_grad_value_`, `get_total_norm` and `clip_grads_with_norm_` have torch's signatures;
`clip_grad_adaptive_` is adaptive clipping, and `tensor_norms` returns the norm of each of many tensors. On a GPU the
norm of half precision is float32, which torch rounds to half precision.

A gradient that cannot be written (made in inference mode, expanded, an integer) or, where elements count, a sparse one
raises a `RuntimeError` that names it, before any other gradient is changed; torch's functions have then changed some.
Gradients with torch's negative or conjugate bit are clipped like any other.

## Files

`policies` holds the policies, `functions` the functions, `norms` everything that computes a norm, `step_norm` the norm
of a whole step, and `inputs` the functions' arguments. Of models that are spread over ranks, `over_ranks` has the
functions' part, and `cut_units` adaptive clipping of units of which each rank holds a part. What can be done to
gradients is asked in `torch_gd._engine.writable`, by the engine too, which calls a policy through the interface in
`torch_gd._engine.clip`.
"""

from .functions import clip_grad_adaptive_, clip_grad_norm_, clip_grad_value_, clip_grads_with_norm_, get_total_norm
from .norms import tensor_norms
from .policies import ClipAdaptive, ClipByGlobalNorm, ClipByValue, ClipPolicy

__all__ = [
    "ClipAdaptive",
    "ClipByGlobalNorm",
    "ClipByValue",
    "ClipPolicy",
    "clip_grad_adaptive_",
    "clip_grad_norm_",
    "clip_grad_value_",
    "clip_grads_with_norm_",
    "get_total_norm",
    "tensor_norms",
]
