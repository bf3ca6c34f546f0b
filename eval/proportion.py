"""How sure a share of right answers is. Pure."""

from __future__ import annotations

import math


def wilson(successes: int, trials: int, confidence: float = 0.95) -> tuple[float, float] | None:
    """Wilson's score interval of a proportion; None without trials.

    Of the closed forms it is the one that holds its coverage at small numbers and near 0 and 1 (Wilson, JASA
    22, 1927; Brown, Cai and DasGupta, Statistical Science 16, 2001).

    Args:
        successes: Right answers, 0 to `trials`.
        trials: Questions.
        confidence: Coverage, in (0, 1).

    Raises:
        ValueError: the counts or the coverage are impossible.
    """
    if not 0 <= successes <= trials:
        raise ValueError(f"{successes} successes of {trials} trials; they must be between none and all")
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence is {confidence}; it lies between 0 and 1, like 0.95")
    if trials == 0:
        return None
    from scipy.special import ndtri

    z = float(ndtri(0.5 + confidence / 2))
    share, z2 = successes / trials, z * z / trials
    centre = share + z2 / 2
    reach = z * math.sqrt(share * (1 - share) / trials + z2 / (4 * trials))
    low, high = (centre - reach) / (1 + z2), (centre + reach) / (1 + z2)
    # at the ends the closed form is exact, and rounding is not
    return (0.0 if successes == 0 else low, 1.0 if successes == trials else high)
