"""Imports of the optional libraries that this package works with; a test without its library is skipped."""

from importlib.util import find_spec
from typing import Any

import pytest


def lightning() -> Any:
    """Return `lightning.pytorch`, which imports torchvision where that is installed."""
    if find_spec("torchvision") is not None:
        import torchvision_on_cpu  # noqa: F401
    return pytest.importorskip("lightning.pytorch", reason="Lightning is not installed")


def transformers() -> Any:
    """Return Hugging Face's `transformers`, which imports torchvision too; its Trainer needs accelerate."""
    if find_spec("torchvision") is not None:
        import torchvision_on_cpu  # noqa: F401
    pytest.importorskip("accelerate", reason="accelerate, which Hugging Face's Trainer needs, is not installed")
    return pytest.importorskip("transformers", reason="transformers is not installed")
