"""The clip policy in a checkpoint: plain data in each group, since some who save checkpoints keep nothing else."""

from collections.abc import Mapping
from typing import Any

from .._arguments import found, number
from ..clipping.policies import ClipPolicy


def add_policy(state_dict: dict[str, Any], clip: ClipPolicy, skipped_steps: int) -> None:
    """Put a policy, and the number of steps that it has left out, into the groups of a state dict."""
    data = clip.state_dict()
    if data is not None:
        count = {"skipped_steps": skipped_steps} if clip.skip_nonfinite else {}
        for group in state_dict["param_groups"]:
            group["clip"] = {**data, **count}


def take_policy(state_dict: dict[str, Any]) -> tuple[dict[str, Any], ClipPolicy | None, int]:
    """Return the state dict as torch would have it, its policy, and the number of steps left out.

    Raises:
        TypeError, ValueError: what stands for a policy is none.
    """
    if not isinstance(state_dict, Mapping):
        hint = "pass what an optimizer's state_dict() returned"
        raise TypeError(f"Invalid state_dict: {found(state_dict)} is no dict; {hint}")
    groups = state_dict["param_groups"]
    without = [{key: value for key, value in group.items() if key != "clip"} for group in groups]
    plain = {**state_dict, "param_groups": without}
    data = next((group["clip"] for group in groups if group.get("clip") is not None), None)
    if data is None:
        return plain, None, 0
    skipped = 0.0
    if isinstance(data, Mapping):
        skipped = number("skipped_steps of the clip policy", data.get("skipped_steps", 0))
        data = {key: value for key, value in data.items() if key != "skipped_steps"}
    return plain, ClipPolicy.from_state_dict(data), int(skipped)
