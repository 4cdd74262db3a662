"""Weight averaging: everything in `torch.optim.swa_utils`."""

from torch.optim.swa_utils import *  # noqa: F403
