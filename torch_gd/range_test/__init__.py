"""The learning-rate range test."""

from .sweep import LRRangeTest, lr_range_test

__all__ = ["LRRangeTest", "lr_range_test"]
