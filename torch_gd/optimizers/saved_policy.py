"""The clip policy in a checkpoint: plain data in each group, since some who save checkpoints keep nothing else."""

from collections.abc import Mapping
from typing import Any

from .._arguments import number
from ..clipping.policies import ClipPolicy


def add_policy(groups: list[dict[str, Any]], clip: ClipPolicy | None, skipped_steps: int) -> None:
    """Put a policy, and the number of steps that it has left out, into the groups of a state dict."""
    data = None if clip is None else clip.state_dict()
    if clip is not None and data is None:
        return  # one that cannot be saved
    if clip is not None and data is not None and clip.skip_nonfinite:
        data = {**data, "skipped_steps": skipped_steps}
    for group in groups:
        group["clip"] = None if data is None else dict(data)


def take_policy(groups: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], tuple[ClipPolicy | None, int] | None]:
    """Return the groups of a state dict without the key "clip", and the policy saved under it.

    Returns:
        The groups, and a pair (policy or None, number of skipped steps); None for the pair if no group has "clip".

    Raises:
        TypeError, ValueError: what stands for a policy is none.
    """
    without = [{key: value for key, value in group.items() if key != "clip"} for group in groups]
    found = [group["clip"] for group in groups if "clip" in group]
    if not found:
        return without, None
    data = found[0]
    if data is None:
        return without, (None, 0)
    skipped = 0.0
    if isinstance(data, Mapping):
        skipped = number("skipped_steps of the clip policy", data.get("skipped_steps", 0))
        data = {key: value for key, value in data.items() if key != "skipped_steps"}
    return without, (ClipPolicy.from_state_dict(data), int(skipped))
