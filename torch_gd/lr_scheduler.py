"""Learning-rate schedules: everything in `torch.optim.lr_scheduler`."""

from torch.optim.lr_scheduler import *  # noqa: F403
from torch.optim.lr_scheduler import LRScheduler as LRScheduler
