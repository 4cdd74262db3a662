"""The engine: how a step is carried out. It knows no optimizer. This page is the design guide.

## Four axes, kept apart

| axis | says | lives in |
|---|---|---|
| algorithm | arithmetic of one element, scalars of a step | `torch_gd.triton_kernels.rules`, `torch_gd.optimizers` |
| storage | how a column of the update lies in memory | `torch_gd.triton_kernels.codecs`, `encoding`, `storage` |
| place | device, shard, ranks, implementation | `routes`, `shards`, `ranks`, `torch_gd.triton_kernels.runtime` |
| gradient treatment | clipping, unscaling, skipping | `torch_gd.clipping` |

An algorithm is data. `spec(group)` returns a frozen `UpdateSpec`: the rule, its compile-time options, the names of
its states and hyperparameters, and what torch offers for it. The engine is given specs, groups, states and a clip
policy at every step, and never the optimizer. A clip policy is asked through three methods (`clip.py`): what the
kernels do as they read gradients, what is measured first, and how gradients are changed in place where that is all
there is.

## A step, as data travels

1. `engine` asks the last `plan` whether it still describes what is there. If not, it takes an earlier plan made for
   the same set of gradients, or makes a new one. Models whose gradients come and go, as under layer drop, keep eight
   plans.
2. A new plan divides each group's parameters into parts that are alike (`parts`), checks each part before anything is
   changed, and chooses its route, which is data: an implementation and the reason (`routes`). `assignment` gathers
   the parts of all groups into batches. `report` does the same without changing anything, for `torch_gd.explain`.
3. A batch of kernels (`kernel_batch`) reads the groups' hyperparameters, derives a row of scalars for each group and
   step count, and launches once. A new learning rate costs no recompile, and groups share the launch. Batches of
   torch's implementations (`torch_batch`) call those.
4. Step counters are the user's tensors, in `optimizer.state` (`counters`), and those very tensors are advanced, except
   that a GPU counts on tensors of its own. Those that we make on the CPU are views of one buffer, which one addition
   advances. Those on a GPU (`fused=True`, `capturable=True`, a GradScaler) are advanced by a small prologue launch,
   which derives the scalars there from the same formula, so that the host never waits. Products over steps, such as
   NAdam's `mu_product`, are advanced beside them, in their own dtype, by factors that the rule derives.
5. DTensors, into which FSDP2 and tensor parallel make parameters, take part as the shards that a rank holds: a part of
   DTensors becomes a part of plain tensors that remembers its owners, from which gradients and states are fetched
   (`shards`, `shard_states`), and all that follows sees plain tensors. A gradient placed otherwise than its parameter
   is received in a tensor made for it, once nothing can fail any more: a rank that asked and then planned anew would
   ask twice. A policy that measures adds up over the process groups that parameters are spread over (`ranks`), at the
   same place of a step, for all parameters of the optimizer: also those that have no gradient here, since they may
   have one elsewhere.
6. A layer-wise step is scaled, for each tensor, by a ratio of two norms. The element-wise step is its special case:
   one kernel measures and applies, and between these launches a small one makes ratios of the sums. Nothing is stored
   between them but sums, ratios and the states, from which the step is derived again: 40 bytes an element for LAMB in
   float32, where storing the step takes 48. On torch's operators such a step is a generator, which yields what is to
   be measured. Of tensors that are spread over ranks (`layers`) each rank has two sums, and one all-reduce for each
   set of process groups adds them up, those of all tensors together.
7. Where gradients are released during backward (`buckets`), a bucket of parameters is updated as the optimizer's own
   engine would, by an engine with a plan of its own, as soon as enough gradients wait; `step()` updates what is left.
   One rule forms the buckets and finds them again, so that a launch for many tensors stays one.
8. What a group's `precision` asks for is decided for each parameter from its dtype and shape (`storage`): a part of
   parameters that are stored alike has a spec that names what is stored (`exp_avg_code`, `exp_avg_scale`, `remainder`),
   so that plans, guards and shards need know nothing else of it. The update kernel is given a codec for each column,
   and calls it where it would load and store; the rule between sees float32. Such a spec always counts steps, since
   noise is a function of the step, of the parameter's place in the optimizer and of the element's number. Where our
   kernels do not serve, `decoded_batch` has torch update float32 copies, and encodes them by the same arithmetic
   (`encoding`). States that a checkpoint holds in another form are converted when a plan is made (`stored_states`).
9. Nothing of a step is held afterwards: `release` lets go of gradients, which would otherwise outlive `zero_grad`.

## One way to notice change

At every step the tensors themselves are fetched anew, and two questions are asked of them (parameters, gradients, each
state): whether their metadata are what they were, by torch's own guards (`guard`), and whether their addresses are, as
one list of integers. If only addresses differ, they are uploaded again. If a guard does not hold, which may be for
autocast or for a real change, the batch compares every tensor, and asks for a new plan if something is different.
States are checked, too, whenever a plan is made (`states`). Groups are compared by the identity of their options
(`groups`), and states by the identity of their dicts. `tests/test_changes.py` lists what must be noticed.

## Numbers

Scalars are derived in double; arithmetic is float32 (float64 for float64), with IEEE division and square root and
torch's own order of operations. Where parameters, gradients and states are all half precision, division and square
root are the GPU's approximate ones: within two ulps of float32 by its specification, which `tests/test_arithmetic.py`
holds them to on a GPU, and lost in the rounding to half precision, some thousands of ulps wide.

## What the compiled code shows

Without a GPU, `python -m benchmarks codegen` counts in the code compiled for sm_80, sm_90, sm_100 and gfx942, and
`tests/test_codegen.py` holds it: each rule reads every element of parameter, gradient and state once and writes it
once, in 128-bit accesses (where dtypes are mixed, those of the widest), with no exchange between threads, no stack and
no spilled register, and with more bytes in flight on each multiprocessor than an H100 needs (about 20 KB). Whether that
reaches full bandwidth, only a GPU can show.
"""
