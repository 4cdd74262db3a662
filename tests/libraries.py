"""Imports of the optional libraries that this package works with; a test without its library is skipped."""

import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
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


def timm_class(name: str) -> Any:
    """Return an optimizer of timm, without timm's own `__init__`, which imports a torchvision that may not fit."""
    if "timm.optim" not in sys.modules:
        spec = find_spec("timm")
        if spec is None or spec.origin is None:
            pytest.skip("timm is not installed")
        for package, folder in (("timm", Path(spec.origin).parent), ("timm.optim", Path(spec.origin).parent / "optim")):
            module = ModuleType(package)
            module.__path__ = [str(folder)]
            sys.modules[package] = module
    return getattr(import_module(f"timm.optim.{name.lower()}"), name)
