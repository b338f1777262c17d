"""Quantiles and closed-form intervals: Student's t, and Wilson's interval of a rate."""

from __future__ import annotations

import math
from statistics import NormalDist

LEVEL = 0.95


def t_quantile(p: float, freedom: int) -> float:
    """Quantile of Student's t (Hill, CACM 13, 1970, algorithm 396).

    Args:
        p: probability in (0, 1); freedom: degrees of freedom, at least 1.

    Returns:
        The quantile, with an error below 1e-4.

    Raises:
        ValueError: ``p`` outside (0, 1) or ``freedom`` < 1.
    """
    if not 0.0 < p < 1.0 or freedom < 1:
        raise ValueError("p must be in (0, 1) and freedom at least 1")
    if p < 0.5:
        return -t_quantile(1.0 - p, freedom)
    n, tail = float(freedom), 2.0 * (1.0 - p)
    if freedom == 1:
        return math.tan(math.pi * (p - 0.5))
    if freedom == 2:
        return math.sqrt(2.0 / (tail * (2.0 - tail)) - 2.0)
    if tail >= 1.0:
        return 0.0
    a = 1.0 / (n - 0.5)
    b = (48.0 / a) / a
    c = ((20700.0 * a / b - 98.0) * a - 16.0) * a + 96.36
    d = ((94.5 / (b + c) - 3.0) / b + 1.0) * math.sqrt(a * math.pi / 2.0) * n
    y = (d * tail) ** (2.0 / n)
    if y > 0.05 + a:
        x = NormalDist().inv_cdf(tail / 2.0)
        y = x * x
        if freedom < 5:
            c += 0.3 * (n - 4.5) * (x + 0.6)
        c = (((0.05 * d * x - 5.0) * x - 7.0) * x - 2.0) * x + b + c
        y = (((((0.4 * y + 6.3) * y + 36.0) * y + 94.5) / c - y - 3.0) / b + 1.0) * x
        y = math.expm1(a * y * y)
    else:
        y = ((1.0 / (((n + 6.0) / (n * y) - 0.089 * d - 0.822) * (n + 2.0) * 3.0) + 0.5 / (n + 4.0)) * y - 1.0) * (
            n + 1.0
        ) / (n + 2.0) + 1.0 / y
    return math.sqrt(n * y)


def wilson(successes: float, trials: float, level: float = LEVEL) -> tuple[float, float]:
    """Interval of a rate (Wilson, JASA 22, 1927).

    Args:
        successes, trials: need not be whole numbers, as trials that are not independent count as fewer.
        level: of confidence.

    Returns:
        Lower and upper end in [0, 1], also for no success and for successes alone.

    Raises:
        ValueError: no trials, or successes outside 0..trials.

    >>> [round(end, 3) for end in wilson(0, 10)]
    [0.0, 0.278]
    """
    if trials < 1 or not 0 <= successes <= trials:
        raise ValueError(f"a rate needs 0 <= successes <= trials, trials >= 1, got {successes} of {trials}")
    z = NormalDist().inv_cdf(0.5 + level / 2.0)
    rate = successes / trials
    centre = (rate + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z / (1 + z * z / trials) * math.sqrt(rate * (1 - rate) / trials + z * z / (4 * trials * trials))
    # exactly 0 and 1 at the ends, where rounding would leave the rate outside its own interval
    return (max(0.0, centre - half) if successes else 0.0), (min(1.0, centre + half) if successes < trials else 1.0)
