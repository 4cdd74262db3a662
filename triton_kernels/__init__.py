"""The Triton kernels, for a kernel engineer to read. The package is installed as `torch_gd.triton_kernels`.

| file | what it holds |
|---|---|
| `rules` | the update rules: arithmetic of one element, no pointer |
| `layer_rules` | those of layer-wise optimizers, which scale the step of each tensor |
| `rule` | what a rule is: scalars derived once a step, and the update |
| `codecs` | how a column lies in memory: plain, split in two, in 8 bits; no algorithm |
| `multi_tensor` | the update kernel and its prologue: pointers, no algorithm |
| `reductions` | kernels for norms of many tensors at once |
| `table`, `launch`, `layers`, `measure` | the host's side: what is uploaded, the update, a layer-wise one, the norms |
| `handle` | compiled kernels, kept so that a launch is cheap |
| `runtime` | what depends on the machine, in one object that tests can replace |

One launch updates every tensor of one mix of dtypes, whatever its parameter group. Each program reads its chunk and
tensor from a map, the tensor's addresses from a table, and its group's scalars from a row; it calls the rule, and
writes parameter and states back. Whether a tensor is 16-byte aligned is seen from the addresses just read: whole
chunks of aligned tensors take a branch without masks, with 128-bit accesses to the widest dtype and as many elements at
a time of the others; everything else takes a branch in slices of an eighth of a chunk, so that it does not set the
number of registers of the whole kernel.

A layer-wise rule takes the update kernel twice, with a small kernel between: the first launch stores sums of squares of
each chunk, `ratio_kernel` makes a ratio of them for each tensor, and the second launch scales the step by it.
"""
