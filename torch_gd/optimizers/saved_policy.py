"""The clip policy in a checkpoint: text under one key of each group, since some who save keep nothing but groups.

It stands in the live groups too, for `torch.distributed.checkpoint`: that loads no option that the live group lacks.
And it is text, since that package takes dicts and tuples apart: it would ask a checkpoint of one policy for the
arguments of another, or mix the two.
"""

import json
from collections.abc import Iterable
from typing import Any

from .._arguments import found, number
from ..clipping.policies import ClipPolicy

KEY = "clip_policy"


def put_policy(groups: Iterable[dict[str, Any]], clip: ClipPolicy | None, skipped_steps: int = 0) -> None:
    """Put a policy, and the number of steps that it has left out, into groups; nothing, if it cannot be saved."""
    text = None if clip is None else _text(clip, skipped_steps)
    for group in groups:
        group.pop(KEY, None)
        if clip is None or text is not None:
            group[KEY] = text


def _text(clip: ClipPolicy, skipped_steps: int) -> str | None:
    data = clip.state_dict()
    if data is None:
        return None
    try:
        return json.dumps({**data, "skipped_steps": skipped_steps} if skipped_steps else data)
    except (TypeError, ValueError):  # it holds more than plain values
        return None


def take_policy(groups: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], tuple[ClipPolicy | None, int] | None]:
    """Return groups without what `put_policy` puts into them, and what that was.

    Returns:
        The groups, and a pair (policy or None, number of skipped steps); None for the pair if no group has the key.

    Raises:
        TypeError, ValueError: what stands for a policy is none.
    """
    without = [{name: value for name, value in group.items() if name != KEY} for group in groups]
    saved = [group[KEY] for group in groups if KEY in group]
    if not saved:
        return without, None
    if saved[0] is None:
        return without, (None, 0)
    try:
        data = dict(json.loads(saved[0]))
    except (TypeError, ValueError):
        hint = "it must be text that state_dict() has put there"
        raise TypeError(f"Invalid clip policy in state_dict: {found(saved[0])}; {hint}") from None
    skipped = number("skipped_steps of the clip policy", data.pop("skipped_steps", 0))
    return without, (ClipPolicy.from_state_dict(data), int(skipped))
