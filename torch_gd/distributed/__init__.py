"""More than one GPU: what works with `torch.distributed`, and what to write for it.

The optimizers run on torch's own parallelism and add none. Give them the parameters of the wrapped model; each rank
then updates the shards that it holds, with the same kernels as on one GPU.

| model | steps | clipping in the step, `last_norm`, `clip_grad_norm_` |
|---|---|---|
| `DistributedDataParallel` | yes | yes |
| `fully_shard` (FSDP2), also hybrid (HSDP), with tensor parallel, or of some layers only | yes | yes |
| tensor and sequence parallel (`parallelize_module`) | yes | yes |
| stages of a pipeline | yes | with `groups=`, see below |
| `FullyShardedDataParallel` (FSDP1) | yes, but for `LAMB` and `LARS` | with `groups=`; not `ClipAdaptive` |
| `ZeroRedundancyOptimizer` | yes | with `groups=`, set as `zero.optim.clip` |

## FSDP2 and tensor parallel

Nothing but the model is different from one GPU. Start the file with `torchrun --nproc-per-node 2`:

```python
import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

import torch_gd

mesh = init_device_mesh("cpu", (2,))  # "cuda" on GPUs
model = torch.nn.Sequential(torch.nn.Linear(8, 32), torch.nn.ReLU(), torch.nn.Linear(32, 2))
for layer in model:
    fully_shard(layer, mesh=mesh)
fully_shard(model, mesh=mesh)

optimizer = torch_gd.AdamW(model.parameters(), lr=3e-4, clip=1.0)
for _ in range(3):
    optimizer.zero_grad()
    model(torch.randn(4, 8)).pow(2).mean().backward()
    optimizer.step()
norm = optimizer.last_norm  # of the whole model: the same value on every rank
```

Tensor parallel, and both together, are likewise:

```python
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

model = torch.nn.Sequential(torch.nn.Linear(8, 32), torch.nn.ReLU(), torch.nn.Linear(32, 2))
parallelize_module(model, mesh, {"0": ColwiseParallel(), "2": RowwiseParallel()})
optimizer = torch_gd.AdamW(model.parameters(), lr=3e-4, clip=torch_gd.ClipAdaptive())
model(torch.ones(4, 8)).pow(2).mean().backward()
optimizer.step()
print(torch_gd.explain(optimizer))  # says which tensors are shards
```

## Clipping

A policy measures the whole model, wherever its parts are: `ClipByGlobalNorm` of any order, `ClipAdaptive` (whose
units are rows of the whole tensor), and `skip_nonfinite`, with which a NaN on one rank has every rank leave the step
out. The host waits for none of it. `ClipByGlobalNorm` costs one `all_reduce` of one number (of two for the infinity
norm) for each process group that parameters are spread over, counted for each different placement; `ClipAdaptive` one
of two numbers for each unit that is cut, and `LAMB` and `LARS` one of two numbers for each tensor.
`torch_gd.clip_grad_norm_`, `get_total_norm` and `clip_grad_adaptive_` do the same; they also take DTensors of several
meshes, and plain tensors beside them, where torch's functions raise. Plain tensors are counted once: they must be the
same on all ranks, as `DistributedDataParallel` keeps them.

Every rank must take the same steps with the same policy. If policies differ when the first step is taken, the ranks
that would wait for others raise an error instead; a policy that is changed later must be changed on every rank. A
`GradScaler` takes DTensors, or plain tensors, but not both in one optimizer: that is torch's limit.

Some parameters are parts of a whole, but torch does not mark them so. Name the process group of the ranks that have
the other parts:

```python
import torch.distributed as dist

stage = torch.nn.Linear(8, 8)  # each rank has its own part of the model
everyone = (dist.group.WORLD,)
optimizer = torch_gd.AdamW(stage.parameters(), lr=3e-4, clip=torch_gd.ClipByGlobalNorm(1.0, groups=everyone))
stage(torch.randn(4, 8)).pow(2).mean().backward()
optimizer.step()
```

- Stages of a pipeline: the group of the ranks that have the other stages, `groups=(mesh["pp"],)`. Groups
  that DTensors are spread over must not be named again, nor those of `DistributedDataParallel`.
- FSDP1: `groups=(model.process_group,)`. Without it, a policy that measures raises; each rank would clip by its own
  norm.
- ZeRO: make `zero = ZeroRedundancyOptimizer(params, torch_gd.AdamW, lr=…)`, then set
  `zero.optim.clip = torch_gd.ClipByGlobalNorm(1.0, groups=(group,))` with the group it was given, or the default one.
  **Nothing can be seen of ZeRO from inside**: without `groups`, each rank clips by the norm of the parameters that it
  updates. ZeRO's own checkpoints do not restore a policy; set it again.

`clip_grad_norm_` and `get_total_norm` take `groups` as well. Process groups are not saved in checkpoints: a policy
that is loaded takes the groups of the policy that it replaces.

Several optimizers of one model, such as one for each part that a rank holds, share a norm through `share_norm`:

```python
parts = [torch.nn.Linear(8, 8), torch.nn.Linear(8, 8)]
optimizers = [torch_gd.AdamW(part.parameters(), lr=3e-4, clip=1.0) for part in parts]
parts[1](parts[0](torch.ones(4, 8))).pow(2).mean().backward()
norm = torch_gd.distributed.share_norm(optimizers)
for optimizer in optimizers:
    optimizer.step()
```

## Checkpoints

`torch.distributed.checkpoint` saves and loads states, policy, skipped steps and `l1`: sharded or full, flattened or
not, also by `async_save`. Another number of ranks can load what was saved, and so can torch's optimizers.

```python
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

optimizer = torch_gd.AdamW(model.parameters(), lr=3e-4, clip=1.0)
model(torch.ones(4, 8)).pow(2).mean().backward()
optimizer.step()
optimizer.zero_grad()

weights, states = get_state_dict(model, optimizer)
dcp.save({"model": weights, "optimizer": states}, checkpoint_id="checkpoint")

weights, states = get_state_dict(model, optimizer)  # in another run: of a new model and a new optimizer
dcp.load({"model": weights, "optimizer": states}, checkpoint_id="checkpoint")
set_state_dict(model, optimizer, model_state_dict=weights, optim_state_dict=states)
```

torch asks a checkpoint for every option that the optimizer's groups have now. One that has no policy or no `l1`, such
as torch's, loads with `planner=dcp.DefaultLoadPlanner(allow_partial_load=True)`. With `broadcast_from_rank0`, load by
`set_model_state_dict` and `set_optimizer_state_dict`: torch's `set_state_dict` then waits for ever.

## Diagnostics and stopping

- Make a `torch_gd.Monitor` on every rank. Its numbers are those of the whole model, and one rank may read and log
  them.
- `torch_gd.lr_range_test` takes a spread or `DistributedDataParallel` model as it is. Every rank calls it, with its
  own loader, and all get the same suggestion.
- `torch_gd.EarlyStopping("val_loss", model=model) | TimeBudget(hours=2)`, called on every rank: the values are
  averaged, all ranks stop together, and each gets its shards of the best weights back. Without a model, set
  `stop.groups = (dist.group.WORLD,)`.
- Under FSDP1 and in a pipeline, a monitor shows what its own rank has.

## Files

`shared_norm` holds `share_norm`. The rest is where its single-GPU counterpart is: `torch_gd._engine.shards` knows
DTensors, `torch_gd._engine.ranks` the process groups, and `torch_gd.clipping.cut_units` units that are cut.
"""

from .shared_norm import share_norm

__all__ = ["share_norm"]
