"""Weight averaging: everything in `torch.optim.swa_utils`, so that changing one import is enough.

Example:
    >>> import torch, torch_gd
    >>> model = torch.nn.Linear(2, 1)
    >>> averaged = torch_gd.swa_utils.AveragedModel(model)
    >>> averaged.update_parameters(model)
"""

from torch.optim.swa_utils import *  # noqa: F403
