"""What a check of the run says."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Verdict:
    """A finding: its name, a sentence for people, and the numbers that it rests on.

    Example:
        >>> from torch_gd.convergence import Verdict
        >>> print(Verdict("diverging", "the loss is nan", {"last": float("nan")}))
        diverging: the loss is nan
    """

    name: str
    message: str
    data: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.name}: {self.message}"
