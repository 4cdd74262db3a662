"""Find a learning rate: the learning-rate range test.

The learning rate matters more than any other setting. `lr_range_test` (Smith 2017, Cyclical Learning Rates for Training
Neural Networks) trains for 200 mini-batches at rates that rise exponentially, stops when the loss diverges, and puts
everything back: parameters, buffers, gradients, the optimizer's states and the random number generators are afterwards
what they were before, in the same objects. Three things see the test nevertheless: step hooks run in it, an attached
`Monitor` records its steps, and an optimizer's `last_norm` is that of its last step. Attach a monitor after the test.

```python
import torch
import torch_gd

model = torch.nn.Linear(4, 3)
x = torch.randn(64, 4)
target = x[:, :3].argmax(1)
loader = [(x[:32], target[:32]), (x[32:], target[32:])]  # or a DataLoader

optimizer = torch_gd.AdamW(model.parameters())
found = torch_gd.lr_range_test(model, optimizer, torch.nn.functional.cross_entropy, loader)
print(found, found.suggestions)
optimizer = torch_gd.AdamW(model.parameters(), lr=found.valley)
```

`found.plot("lr.png")` draws the curve.

## What it suggests

| suggestion | the rate |
|---|---|
| `steepest` | where the smoothed loss falls fastest; this is `suggestion` |
| `valley` | in the middle of the longest descent of the smoothed loss |
| `tenth_of_minimum` | a tenth of the rate where the smoothed loss is lowest |

Start with `valley`. It looks at the whole descent, while the steepest descent may be noise at the beginning of the
sweep, far below a useful rate, where the losses of mini-batches are noisy or the steps are few. Look at the curve
before you trust a single number.

On the digits both trained, in the mean, to within a point of the best rate of a sweep for each of the six optimizers; a
test checks this for `suggestion`. That was measured with 200 steps, the default; fewer say less.

`python -m torch_gd.plot lr-sweep` trains the digits at rates that are too small, well tuned and too large.

## How the files fit

`sweep.py` has `lr_range_test`, which trains. `snapshot.py` restores everything that training changed. `result.py` has
`LRRangeTest`, the curve with its suggestions, and `picture.py` draws it.

Example:
    >>> import torch, torch_gd
    >>> _ = torch.manual_seed(0)
    >>> model = torch.nn.Linear(4, 1)
    >>> optimizer = torch_gd.SGD(model.parameters())
    >>> x = torch.randn(32, 4)
    >>> loader = [(x, x.sum(1, keepdim=True))]
    >>> loss_fn = torch.nn.functional.mse_loss
    >>> found = torch_gd.lr_range_test(model, optimizer, loss_fn, loader, steps=30, progress=False)
    >>> found.diverged, sorted(found.suggestions)
    (True, ['steepest', 'tenth_of_minimum', 'valley'])
"""

from .result import LRRangeTest
from .sweep import lr_range_test

__all__ = ["LRRangeTest", "lr_range_test"]
