"""The optimizers."""

from .adagrad import Adagrad
from .adam import Adam
from .adamw import AdamW
from .base import FusedOptimizer
from .nag import NAG
from .param_groups import param_groups_weight_decay, soft_threshold_
from .rmsprop import RMSprop
from .sgd import SGD

RMSProp = RMSprop

__all__ = [
    "NAG",
    "SGD",
    "Adagrad",
    "Adam",
    "AdamW",
    "FusedOptimizer",
    "RMSProp",
    "RMSprop",
    "param_groups_weight_decay",
    "soft_threshold_",
]
