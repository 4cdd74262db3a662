"""The clip policy in a checkpoint: plain data in each group, since some who save checkpoints keep nothing else."""

from collections.abc import Mapping
from typing import Any

from .._arguments import number
from ..clipping.policies import ClipPolicy


def add_policy(groups: list[dict[str, Any]], clip: ClipPolicy, skipped_steps: int) -> None:
    """Put a policy, and the number of steps that it has left out, into the groups of a state dict."""
    data = clip.state_dict()
    if data is not None:
        count = {"skipped_steps": skipped_steps} if clip.skip_nonfinite else {}
        for group in groups:
            group["clip"] = {**data, **count}


def take_policy(groups: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], ClipPolicy | None, int]:
    """Return the groups of a state dict as torch would have them, their policy, and the number of steps left out.

    Raises:
        TypeError, ValueError: what stands for a policy is none.
    """
    without = [{key: value for key, value in group.items() if key != "clip"} for group in groups]
    data = next((group["clip"] for group in groups if group.get("clip") is not None), None)
    if data is None:
        return without, None, 0
    skipped = 0.0
    if isinstance(data, Mapping):
        skipped = number("skipped_steps of the clip policy", data.get("skipped_steps", 0))
        data = {key: value for key, value in data.items() if key != "skipped_steps"}
    return without, ClipPolicy.from_state_dict(data), int(skipped)
