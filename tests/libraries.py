"""Libraries that this package works with but does not need: imported where they are, skipped where they are not."""

from importlib.util import find_spec
from typing import Any

import pytest


def lightning() -> Any:
    """`lightning.pytorch`. It imports torchvision where that is installed, which may need help to import."""
    if find_spec("torchvision") is not None:
        import torchvision_on_cpu  # noqa: F401
    return pytest.importorskip("lightning.pytorch", reason="Lightning is not installed")


def transformers() -> Any:
    """Hugging Face's, with what its Trainer needs; it imports torchvision too."""
    if find_spec("torchvision") is not None:
        import torchvision_on_cpu  # noqa: F401
    pytest.importorskip("accelerate", reason="accelerate, which Hugging Face's Trainer needs, is not installed")
    return pytest.importorskip("transformers", reason="transformers is not installed")
