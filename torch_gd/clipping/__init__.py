"""Gradient clipping."""

from .functions import (
    ClipAdaptive,
    ClipByGlobalNorm,
    ClipByValue,
    ClipPolicy,
    clip_grad_adaptive_,
    clip_grad_norm_,
    clip_grad_value_,
    clip_grads_with_norm_,
    get_total_norm,
)
from .norms import tensor_norms

__all__ = [
    "ClipAdaptive",
    "ClipByGlobalNorm",
    "ClipByValue",
    "ClipPolicy",
    "clip_grad_adaptive_",
    "clip_grad_norm_",
    "clip_grad_value_",
    "clip_grads_with_norm_",
    "get_total_norm",
    "tensor_norms",
]
