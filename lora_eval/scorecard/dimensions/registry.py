"""The dimensions of a scorecard, in the order in which they are shown. A new one is one line here."""

from __future__ import annotations

from collections.abc import Sequence

from lora_eval.scorecard.dimensions import alignment, consistency, curve, fidelity, generalisation, strength
from lora_eval.scorecard.dimensions.spec import AnySpec, Check

DIMENSIONS: tuple[AnySpec, ...] = (
    consistency.SPEC,
    fidelity.SPEC,
    generalisation.SPEC,
    curve.SPEC,
    strength.SPEC,
    alignment.SPEC,
)
NAMES = tuple(spec.name for spec in DIMENSIONS)
# each check with its dimension, in the order in which checks are listed
CHECKS: tuple[tuple[AnySpec, Check], ...] = tuple(
    sorted(((spec, check) for spec in DIMENSIONS for check in spec.checks), key=lambda pair: pair[1].rank)
)


def spec_of(name: str) -> AnySpec:
    """The dimension of a name.

    Raises:
        KeyError: there is none.
    """
    return {spec.name: spec for spec in DIMENSIONS}[name]


def measuring_order(specs: Sequence[AnySpec] = DIMENSIONS) -> list[AnySpec]:
    """The dimensions so that each comes after those that its ``after`` names, else in the order given.

    Raises:
        ValueError: a name in ``after`` is unknown, or dimensions wait for each other.
    """
    found: list[AnySpec] = []
    while len(found) < len(specs):
        done = {spec.name for spec in found}
        ready = [spec for spec in specs if spec.name not in done and done.issuperset(spec.after)]
        if not ready:
            waiting = {spec.name: spec.after for spec in specs if spec.name not in done}
            raise ValueError(f"dimensions wait for each other or for one that is not there: {waiting}")
        found.append(ready[0])
    return found
