"""What the user says of precision: how weights and states are stored, as plain data."""

import json
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Any, NamedTuple

from .._arguments import found

WEIGHTS = (None, "bf16+16", "bf16+8", "stochastic")
STATES = (None, "float32", "bf16", "8bit")
KEY = "precision"  # of a parameter group


@dataclass(frozen=True)
class Precision:
    """How an optimizer stores weights and states; all arithmetic stays float32.

    If a weight is edited between steps (masked, averaged), the low bits kept of its old value still apply. They shift
    it by at most half a bfloat16 ulp, and zeros stay zeros. Checking every weight at each step would be too slow. To
    have stale bits dropped, call `optimizer.load_state_dict(optimizer.state_dict())` before the edit: the next step
    drops bits that no longer match their weight, as it does after loading any checkpoint, in either load order. Shards
    (DTensors) and flattened distributed checkpoints are not checked.

    Instead of a `Precision`, pass a budget: AdamW's bytes per parameter, including a bfloat16 gradient: 14 ("bf16+16",
    "float32"), 10 ("bf16+16", "bf16"), 9 ("bf16+8", "bf16") or 7.25 ("bf16+8", "8bit"). Any other number is rounded
    down to one of these. `optimizer.lower_weights()` begins with a float32 model; `float32_weights()` and
    `to_float32_state_dict()` give float32 back, the latter for `torch.optim`. A checkpoint brings its own precision, as
    it brings its own learning rate.

    Args:
        weights: what is kept of a float32 weight. None: no more than the parameter holds, rounded to nearest. "bf16+16"
            and "bf16+8": the parameter is bfloat16, and the optimizer keeps 16 more bits, which make it a float32 bit
            for bit, or 8. "stochastic": a bfloat16 or float16 parameter is rounded up or down at random, so that it is
            right on average.
        states: "float32", "bf16" (second moments rounded stochastically, since nearest rounding would keep them from
            decaying) or "8bit" (8 bits in groups of 32 with a float32 scale: 1.125 bytes an element; tensors whose rows
            do not divide into groups of 32, or that are not contiguous, keep full precision). None: as torch does, in
            the parameter's dtype; float32 if `weights` is given.
        min_elements: smaller tensors keep full precision: float32 states, and all bits of the weight. Default: 4096.
        keep: patterns of whole parameter names, such as `"*embed*"`, that keep full precision too; of tied weights the
            first name counts. The optimizer must then be given `model.named_parameters()`.
        seed: seed of the noise that is used in rounding. Default: 0.

    Raises:
        ValueError: a value that is not among these.
        TypeError: an argument of the wrong kind.

    Example:
        >>> import torch, torch_gd
        >>> model = torch.nn.Linear(64, 64, bias=False, dtype=torch.bfloat16)
        >>> precision = torch_gd.Precision(weights="bf16+8", states="8bit")
        >>> optimizer = torch_gd.AdamW(model.parameters(), precision=precision)
    """

    weights: str | None = None
    states: str | None = None
    min_elements: int = 4096
    keep: tuple[str, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        for name, value, values in (("weights", self.weights, WEIGHTS), ("states", self.states, STATES)):
            if value not in values:
                raise ValueError(f"Invalid {name}: {found(value)}; Precision takes {', '.join(map(repr, values))}")
        for name in ("min_elements", "seed"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool):
                raise TypeError(f"Invalid {name}: {found(value)}; Precision takes an integer")
            if value < 0:
                raise ValueError(f"Invalid {name}: {value}; it must not be negative")
        if not isinstance(self.keep, (tuple, list)) or not all(isinstance(pattern, str) for pattern in self.keep):
            raise TypeError(
                f"Invalid keep: {found(self.keep)}; Precision takes a tuple of patterns, such as ('*embed*',)"
            )
        object.__setattr__(self, "keep", tuple(self.keep))

    @property
    def text(self) -> str:
        """Return it as text, under which it stands in parameter groups and checkpoints."""
        return json.dumps(asdict(self))

    def keeps(self, name: str) -> bool:
        """Return whether a parameter of this name keeps full precision."""
        return any(fnmatchcase(name, pattern) for pattern in self.keep)


class Preset(NamedTuple):
    """A precision by the bytes that AdamW then needs for each parameter, with a bfloat16 gradient."""

    bytes: float
    precision: Precision


PRESETS = (
    Preset(14.0, Precision("bf16+16", "float32")),
    Preset(10.0, Precision("bf16+16", "bf16")),
    Preset(9.0, Precision("bf16+8", "bf16")),
    Preset(7.25, Precision("bf16+8", "8bit")),
)


def as_precision(value: Any) -> Precision | None:
    """Return the precision that an argument stands for.

    Args:
        value: a `Precision`, its text, None, or a number of bytes: the most precise of `PRESETS` that needs no more.
    """
    if value is None or isinstance(value, Precision):
        return value
    if isinstance(value, str):
        return _from_text(value)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        for preset in PRESETS:
            if preset.bytes <= value:
                return preset.precision
        raise ValueError(f"Invalid precision: {value} bytes a parameter; the least is {PRESETS[-1].bytes} (AdamW)")
    raise TypeError(f"Invalid precision: {found(value)}; pass a torch_gd.Precision, or a number of bytes a parameter")


@lru_cache
def _from_text(text: str) -> Precision:
    hint = "pass a torch_gd.Precision, such as Precision(weights='bf16+8', states='8bit'), or a number of bytes"
    try:
        data = json.loads(text)
        return Precision(**{**data, "keep": tuple(data.get("keep", ()))})
    except (AttributeError, TypeError, ValueError):
        raise ValueError(f"Invalid precision: {text!r} is none that a checkpoint holds; {hint}") from None
