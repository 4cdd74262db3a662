"""The optimizers, and how to write one of your own.

| | algorithm | same as |
|---|---|---|
| `SGD` | stochastic gradient descent, momentum, Nesterov's momentum | `torch.optim.SGD` |
| `NAG` | Nesterov's accelerated gradient | `torch.optim.SGD(nesterov=True)` |
| `SGDW` | SGD with decoupled decay, multiplied by the rate | timm's `SGDW` |
| `Adagrad` | Adagrad | `torch.optim.Adagrad` |
| `Adadelta` | Adadelta | `torch.optim.Adadelta` |
| `RMSprop`, `RMSProp` | RMSprop, also centered and with momentum | `torch.optim.RMSprop` |
| `Adam`, `AdamW` | Adam with L2 or decoupled decay, also AMSGrad | `torch.optim.Adam`, `torch.optim.AdamW` |
| `Adamax` | Adam with the largest gradient as second moment | `torch.optim.Adamax` |
| `NAdam` | Adam with Nesterov's momentum | `torch.optim.NAdam` |
| `RAdam` | Adam without its second moment until this can be estimated | `torch.optim.RAdam` |
| `Lion` | every update is a sign | timm's `Lion` |
| `LAMB` | Adam whose step is scaled to the norm of each tensor | by options: apex's, timm's, optax's |
| `LARS` | SGD whose step is scaled to the norm of each tensor | by options: timm's `Lars` |

Signatures, defaults, states, checkpoints and errors are torch's, where torch has the optimizer. State dicts travel in
both directions. Two arguments are added to each: `clip` (see `torch_gd.clipping`) and `l1`, a decoupled L1 penalty that
gives exact zeros: after each update a soft threshold of `lr * l1`, in the same launch.
`param_groups_weight_decay(model, 0.05)` leaves biases and norms out of weight decay.

```python
import torch
import torch_gd

model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.LayerNorm(16))
optimizer = torch_gd.AdamW(torch_gd.param_groups_weight_decay(model, 0.05), lr=1e-3)
model(torch.randn(4, 8)).pow(2).mean().backward()
optimizer.step()
print(torch_gd.explain(optimizer))
```

## Which implementation runs

`torch_gd.explain(optimizer)` prints it, with the reason.

- **Our kernels** update tensors on a GPU (NVIDIA from sm_80 on, AMD) in float32, float64, bfloat16 and float16: dense,
  strided or misaligned, with gradients of any strides and dtype. With `TRITON_INTERPRET=1` they are interpreted on the
  CPU, for tests and not for speed.
- **torch's fused kernels** update tensors on the CPU. SGD without momentum and decay is one `add_` where that is
  faster. torch has no fused kernel for RMSprop, which is Adam's with beta1 = 0; half precision and `centered=True` take
  torch's foreach over small tensors and its default over large ones. So do Adadelta, Adamax, NAdam and RAdam, and, on
  torch's operators, Lion. SGDW decays the parameters and goes on as SGD.
- **LAMB and LARS** take three launches on a GPU: one measures, a small one finds a ratio for each tensor, one applies.
  On the CPU torch's fused Adam makes LAMB's step. Of DTensors the norms are of the whole: a step asks for one sum over
  the ranks. Parameters that FSDP1 has flattened have no layers any more, and raise.
- **torch's choice** is taken with `foreach=…`, `fused=False` or `differentiable=True`, for sparse gradients, complex
  parameters and other tensor subclasses, and while something watches torch's operators, as `FakeTensorMode` and
  `make_fx` do.
- **DTensors**, as FSDP2 and tensor parallel make them, are updated shard by shard in the same ways, and clipped by
  norms of the whole: see `torch_gd.distributed`.
- **torch's for-loop** updates, one after the other, parameters whose address ranges overlap, such as column views of
  one matrix, even where no element is shared.

`fused=True` insists on a fused implementation, takes part in `torch.amp.GradScaler`'s unscaling, and raises where it
cannot be had. Only the tensor that needs a slower route takes it; the others stay fused.

## Half the memory

`precision=` says how weights and states are stored; all arithmetic stays float32, in the same launch, with clipping and
L1 in it. Give a number of bytes that AdamW may take for each parameter, its bfloat16 gradient included, or a
`torch_gd.Precision`; also for a parameter group of its own.

| bytes | `Precision(…)` | what stays of float32 |
|---|---|---|
| 16 | none, float32 parameters | all |
| 14 | `"bf16+16", "float32"` | all, bit for bit: bfloat16 weights and 16 more bits |
| 10 | `"bf16+16", "bf16"` | the weights; moments have 8 bits of significand, the second rounded stochastically |
| 9 | `"bf16+8", "bf16"` | 16 bits of the weights' significand |
| 7.25 | `"bf16+8", "8bit"` | likewise; moments have 8 bits, and a float32 scale for each 32 |
| 6.25 | `"stochastic", "8bit"` | bfloat16 weights, right in the mean |

Take 14 where nothing may change, and 7.25 where memory is short. Tensors below `min_elements` (4,096), those that
`keep` names and those whose rows do not divide by 32 keep full precision, which `explain` says, with the bytes.

```python
import torch
import torch_gd

model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.Linear(64, 10)).bfloat16()
optimizer = torch_gd.AdamW(model.named_parameters(), lr=1e-3, precision=7.25, clip=1.0)
model(torch.randn(4, 64).bfloat16()).float().pow(2).mean().backward()
optimizer.step()
print(torch_gd.explain(optimizer))
print(optimizer.state[model[0].weight].keys())  # remainder, exp_avg_code, exp_avg_scale, …
```

Noise is a function of seed, step and element alone: replicas, shards and a run that goes on have the same bits. Not
possible, and refused: AMSGrad and centered RMSprop in less than float32, `differentiable=True`, sparse gradients,
`weights=` for parameters that are float32. float64 and complex parameters are left alone.

Limits: without our kernels, torch decodes and encodes around its own update, which is right but slow, and takes float32
copies during the step. On an H100 the compiled code leaves memory the limit;
on a B200 the 8-bit modes are bound by instructions instead (`benchmarks/results/codegen.md`, a prediction). With Triton
3.6 their threads wait for one another at barriers; later versions need none. `ClipAdaptive` measures the bfloat16
weights.

## Where this package does not follow torch

- torch's fused CPU kernels look at no stride. With a gradient laid out otherwise than its parameter, or a parameter
  that is a strided view, they compute wrong numbers in silence. Here such tensors go through dense stand-ins.
- torch's fused CPU SGD leaves whole vectors of bfloat16 and float16 elements as they were (seen with torch 2.11
  to 2.13). Here half precision takes the for-loop on the CPU.
- torch's fused SGD fails where some parameters have a momentum buffer and others are to get one. Here it does not.
- A step tells autograd that parameters have changed, which torch's fused kernels do not, so that a second `backward`
  through a stale graph raises instead of computing wrong gradients.
- With `fused=True` and a GradScaler, torch's CUDA kernels write unscaled gradients back; ours leave gradients alone.
- States must fit their parameters in shape, device and kind, and none may be missing that torch would miss; an error
  names parameter and state before anything is updated. Mixed dtypes that torch takes on one route only are taken.

The tensors in `optimizer.state` are updated in place, step counters included, whoever made them. There is one
exception: where the GPU counts (`fused`, `capturable`, a tensor `lr` there, a GradScaler, `skip_nonfinite`), counters
that are elsewhere, or of another dtype than float32 (float64 if all are), are replaced by copies there.

Limits: `dampening` is applied to the first gradient too, if a GradScaler skipped the step before it; and torch's
`load_state_dict`, which is used here, converts NAdam's `mu_product` to the parameter's dtype.

## CUDA graphs

A captured graph has a plan of its own, which no eager step touches, so that graph and eager steps can alternate. Take
a step before the capture, with the clip policy that the graph is to hold. As in torch, those that have it need
`capturable=True`. torch gives Adagrad no such argument, so it needs `fused=True`, or its counter stands still.

## Gradients that are freed during backward

`torch_gd.release_gradients(model, optimizer)` has each parameter updated while `backward()` goes on, and its gradient
freed: see `torch_gd.optimizers.release`.

## An optimizer of your own

Write a rule (the arithmetic of one element), and a class that describes it as data. This is Lion (Chen et al. 2023)
once more, as you would write it; run it with `TRITON_INTERPRET=1` on a machine without a GPU.

```python
import torch_gd
import triton
import triton.language as tl
from torch_gd.optimizers import UpdateSpec
from torch_gd.triton_kernels.rule import Rule


# Once a step, in double.
def lion_scalars(step, hyperparameters):
    lr, beta1, beta2, weight_decay = hyperparameters
    return lr, beta1, 1 - beta1, beta2, 1 - beta2, 1 - lr * weight_decay


# For each element.
@triton.jit
def lion_update(p, g, state, h, options: tl.constexpr, exact: tl.constexpr):
    lr, beta1, one_minus_beta1, beta2, one_minus_beta2, decay = h
    update = beta1 * state[0] + one_minus_beta1 * g
    sign = tl.where(update > 0, 1.0, 0.0) - tl.where(update < 0, 1.0, 0.0)
    return p * decay - lr * sign, (beta2 * state[0] + one_minus_beta2 * g,)


LION = Rule(lion_scalars, lion_update)


class Lion(torch_gd.FusedOptimizer):
    def __init__(self, params, lr=1e-4, betas=(0.9, 0.99), weight_decay=0.0, **more):
        defaults = {"lr": lr, "betas": betas, "weight_decay": weight_decay}
        super().__init__(params, defaults, **more)

    @staticmethod
    def spec(group):
        hyperparameters = ("lr", "betas", "weight_decay")
        return UpdateSpec(LION, hyperparameters, state_names=("exp_avg",))
```

States that `init_state` does not make are zeros from the first step on. A rule that reads the number of the step says
so with `UpdateSpec(…, counts_steps=True)`; without it, `step` tells only the first step (1) from later ones (2). A
product over all steps, as NAdam has one of its momenta, is a state of one element that the rule's `factors` multiply:
`Rule(scalars, update, factors)` and `UpdateSpec(…, products=("mu_product",))`; `rules.NADAM` is an example. To run on
the CPU without `TRITON_INTERPRET=1`, or without Triton, the class also defines `torch_step`: the update in torch's own
operators.

```python
import torch


class LionAnywhere(Lion):
    @staticmethod
    def torch_step(group, tensors, flags):
        beta1, beta2 = group["betas"]
        for p, g, state in zip(tensors.params, tensors.grads, tensors.states):
            exp_avg = state.setdefault("exp_avg", torch.zeros_like(p))
            update = torch.lerp(exp_avg, g, 1 - beta1).sign_()
            p.mul_(1 - group["lr"] * group["weight_decay"])
            p.add_(update, alpha=-group["lr"])
            exp_avg.lerp_(g, 1 - beta2)


p = torch.ones(2, requires_grad=True)
p.grad = torch.ones(2)
LionAnywhere([p], lr=0.25).step()
```

## What is not here

Adafactor (Shazeer & Stern 2018). Its second moment is kept as means over rows and over columns, and its step is scaled
by the root mean square of the step itself. On the kernels that takes three passes over a matrix: one for the means, in
which sums over columns cross the chunks that programs work on, one for the size of the step, and one that applies it;
and a rule that is given two vectors where all others are given elements. Nothing else here would use that driver. Its
purpose, states in less memory, `Precision` serves for every optimizer; `torch.optim.Adafactor` goes with the schedules
and clipping functions of this package.

## Files

`base` wires torch's `Optimizer` to the engine (`torch_gd._engine`); each algorithm has a file with its constructor,
`spec`, `init_state` and `torch_step`; `fused_rmsprop` is RMSprop on the CPU, `unfused` what those share that torch does
not fuse, and `layerwise` what LAMB and LARS share. `checks` holds argument checks, `param_groups` the groups for weight
decay, `release` and `release_checks` updates during backward, `saved_policy` the clip policy in checkpoints, and
`profiling` torch's wrapper around a step.
"""

from .._engine.report import BatchReport
from .._engine.soft_threshold import soft_threshold_
from .._engine.spec import FusedTensors, LoopTensors, TorchFlags, UpdateSpec, new_step_counter
from .adadelta import Adadelta
from .adagrad import Adagrad
from .adam import Adam
from .adamax import Adamax
from .adamw import AdamW
from .base import FusedOptimizer
from .by_name import create_optimizer, list_optimizers
from .explain import Explanation, explain
from .lamb import LAMB
from .lars import LARS
from .lion import Lion
from .nadam import NAdam
from .nag import NAG
from .param_groups import param_groups_weight_decay
from .radam import RAdam
from .release import GradientRelease, release_gradients
from .rmsprop import RMSprop
from .sgd import SGD
from .sgdw import SGDW

RMSProp = RMSprop

__all__ = [
    "LAMB",
    "LARS",
    "NAG",
    "SGD",
    "SGDW",
    "Adadelta",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "BatchReport",
    "Explanation",
    "FusedOptimizer",
    "FusedTensors",
    "GradientRelease",
    "Lion",
    "LoopTensors",
    "NAdam",
    "RAdam",
    "RMSProp",
    "RMSprop",
    "TorchFlags",
    "UpdateSpec",
    "create_optimizer",
    "explain",
    "list_optimizers",
    "new_step_counter",
    "param_groups_weight_decay",
    "release_gradients",
    "soft_threshold_",
]
