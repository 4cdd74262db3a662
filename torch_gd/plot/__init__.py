"""Pictures of schedules, optimizers and training runs, drawn to files by `python -m torch_gd.plot PICTURE`.

| picture | what it shows |
|---|---|
| `schedules` | every learning-rate schedule |
| `lr-sweep` | the digits trained at rates that are too small, well tuned and too large |
| `surfaces` | optimizers on Beale's and Rosenbrock's functions, a saddle and a ravine |
| `landscape` | the loss around the end of a real run (Li et al. 2018), and the run in its own plane |
| `overfitting` | losses with and without each remedy, from the log of `examples/overfitting.py` |
| `depth` | gradients by layer, plain and cured, from the log of `examples/depth.py` |
| `variants` | batch, mini-batch and stochastic descent, from the log of `examples/batch_variants.py` |
| `large-batch` | accuracy at growing batch sizes, from the log of `examples/large_batch.py` |

`--out` says the file, whose ending says the format; `surfaces` also draws a film to a `.gif`. `--help` after a picture
lists its options. The pictures need matplotlib, and those of the digits also scikit-learn.

Each picture is a module with `COMMAND`, `HELP`, `add_arguments` and `draw`; `__main__.py` lists them. `figure.py` makes
and saves figures, `from_log.py` reads the examples' logs, `arguments.py` has the types of the options, and `digits.py`
the data, the network and the training that several pictures share.

Example:
    >>> from torch_gd.plot.__main__ import PICTURES
    >>> [picture.COMMAND for picture in PICTURES]
    ['schedules', 'lr-sweep', 'surfaces', 'landscape', 'variants', 'overfitting', 'depth', 'large-batch']
"""
