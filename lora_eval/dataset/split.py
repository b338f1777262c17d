"""Pictures kept away from training: decided once, before anything is trained."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from lora_eval.dataset.folder import Item
from lora_eval.errors import ConfigError

AUTO_FROM = 20
AUTO_FRACTION = 0.1


def auto_fraction(count: int) -> float:
    """0.1 from 20 pictures up; below, every picture is needed for training."""
    return AUTO_FRACTION if count >= AUTO_FROM else 0.0


def split(
    items: Sequence[Item],
    fraction: float | None = None,
    seed: int = 0,
    keys: Sequence[str] | None = None,
    groups: Sequence[int] | None = None,
) -> tuple[list[int], list[int]]:
    """Indices of the training and of the held-out pictures, each in ascending order.

    The choice depends on ``seed`` and each picture's key alone, not on the order of the list: pictures are ranked
    by a hash, so adding one picture moves at most a few others.

    Args:
        items: the pictures.
        fraction: share held out, in [0, 0.5]; None: :func:`auto_fraction`.
        keys: a stable name for each picture, for example its content hash; default the file name.
        groups: group number of each picture (near-duplicates share one); a group is never torn apart, so no
            held-out picture has a twin in training.

    Raises:
        ConfigError: the fraction leaves no picture to train on or to hold out.
    """
    count = len(items)
    share = auto_fraction(count) if fraction is None else fraction
    wanted = round(count * share)
    if share > 0 and wanted == 0:
        wanted = 1
    if wanted == 0:
        return list(range(count)), []
    if count < 2 or wanted >= count:
        raise ConfigError(
            f"validation_fraction {share:g} of {count} picture(s) leaves nothing to train on; "
            "add pictures or set it to 0"
        )
    names = keys if keys is not None else [item.path.name for item in items]
    members: dict[int, list[int]] = {}
    for index in range(count):
        members.setdefault(groups[index] if groups is not None else index, []).append(index)

    def rank(group: list[int]) -> str:
        smallest = min(names[i] for i in group)
        return hashlib.sha256(f"{seed}|held-out|{smallest}".encode()).hexdigest()

    held: list[int] = []
    # singles first: a pair of twins tells less about the unseen than two different pictures
    for group in sorted(members.values(), key=lambda g: (len(g) > 1, rank(g))):
        if len(held) >= wanted:
            break
        if len(held) + len(group) < count:
            held += group
    chosen = set(held)
    return [i for i in range(count) if i not in chosen], sorted(chosen)
