"""How well scores agree with people's ratings. Pure functions of arrays.

Shapes: N pictures, R bootstrap resamples, G groups of equal values.

SRCC  Spearman's rank correlation: order alone, ties at their mean rank
PLCC  Pearson's linear correlation, of the scores as they are, and after the four-parameter logistic below
KRCC  Kendall's tau-b
RMSE  root mean square error after the logistic, in units of the ratings

The logistic maps scores to the ratings' scale before PLCC and RMSE, as the Video Quality Experts Group did
("Final report on the validation of objective models of video quality assessment", phase I, 2000) and ITU-T
P.1401 recommends, with any monotonic function: a scorer need not answer on the raters' scale. Published
tables differ in whether they do it, so both are given and named.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from eval.metrics import DEFAULT_BOOTSTRAP, Bootstrap

# Below this many pictures a correlation says nothing; a logistic needs more than its four parameters.
LEAST, LEAST_TO_FIT = 3, 5
# Values of a chunk of resamples, to bound memory: a chunk holds a few float64 arrays of this size.
_CHUNK_VALUES = 2_000_000


@dataclass(frozen=True)
class Logistic:
    """f(x) = bottom + (top - bottom) / (1 + exp(-(x - middle) / width)).

    Attributes:
        top: Rating that high scores tend to.
        bottom: Rating that low scores tend to; above `top` where high scores go with low ratings.
        middle: Score at which the curve is half way.
        width: How many units of score make a factor e; above 0.
    """

    top: float
    bottom: float
    middle: float
    width: float

    def __call__(self, scores: np.ndarray) -> np.ndarray:
        """Ratings [N] predicted from scores [N]."""
        return _logistic(np.asarray(scores, dtype=np.float64), *asdict(self).values())


@dataclass(frozen=True)
class Agreement:
    """Scores against ratings over the pictures that have both.

    Attributes:
        n: Pictures compared.
        srcc: Rank correlation; None where it is undefined, as everything below.
        srcc_interval: Its bootstrap percentile interval.
        plcc: Linear correlation of the scores as they are.
        plcc_interval: Its bootstrap percentile interval.
        krcc: Kendall's tau-b.
        plcc_fitted: Linear correlation after the logistic, with the sign of its slope: a curve that falls
            says that high scores go with low ratings, and must not look like agreement.
        rmse_fitted: Root mean square error after the logistic, in units of the ratings.
        fit: The logistic; None where it failed.
        undefined: Why there is no correlation; None where there is one.
        unfitted: Why there is no fit; None where there is one.
    """

    n: int
    srcc: float | None = None
    srcc_interval: tuple[float, float] | None = None
    plcc: float | None = None
    plcc_interval: tuple[float, float] | None = None
    krcc: float | None = None
    plcc_fitted: float | None = None
    rmse_fitted: float | None = None
    fit: Logistic | None = None
    undefined: str | None = None
    unfitted: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(self).items()}


class Unfit(Exception):
    """The logistic cannot be fitted; the message is the reason."""


def agreement(scores: np.ndarray, ratings: np.ndarray, bootstrap: Bootstrap = DEFAULT_BOOTSTRAP) -> Agreement:
    """Everything that is reported about one column of scores on one data set.

    Args:
        scores: [N], finite.
        ratings: [N], finite.
        bootstrap: How the intervals are made.

    Raises:
        ValueError: The arrays differ in shape, or hold something that is not finite.
    """
    x, y = _checked(scores, ratings)
    if reason := undefined(x, y):
        return Agreement(len(x), undefined=reason, unfitted=reason)
    from scipy.stats import kendalltau

    srcc_interval, plcc_interval = intervals(x, y, bootstrap)
    found: dict[str, Any] = {
        "srcc": srcc(x, y),
        "srcc_interval": srcc_interval,
        "plcc": plcc(x, y),
        "plcc_interval": plcc_interval,
        "krcc": float(kendalltau(x, y).statistic),
    }
    try:
        fit = fit_logistic(x, y)
    except Unfit as error:
        return Agreement(len(x), **found, unfitted=str(error))
    predicted = fit(x)
    slope = 1.0 if fit.top > fit.bottom else -1.0
    rmse = float(np.sqrt(np.mean((predicted - y) ** 2)))
    return Agreement(len(x), **found, plcc_fitted=slope * plcc(predicted, y), rmse_fitted=rmse, fit=fit)


def undefined(scores: np.ndarray, ratings: np.ndarray) -> str | None:
    """Why scores [N] and ratings [N] have no correlation; None where they have one."""
    if len(scores) < LEAST:
        return f"{len(scores)} pictures with score and rating; a correlation needs at least {LEAST}"
    for name, values in (("scores", scores), ("ratings", ratings)):
        if np.ptp(values) == 0:
            return f"all {name} are equal ({values[0]:.6g})"
    return None


def plcc(scores: np.ndarray, ratings: np.ndarray) -> float:
    """Pearson's correlation of [N] and [N]; NaN where one of them does not vary."""
    return float(_pearson(_standard(scores)[None], _standard(ratings)[None], np.ones((1, len(scores))))[0])


def srcc(scores: np.ndarray, ratings: np.ndarray) -> float:
    """Spearman's correlation of [N] and [N]: Pearson's of the ranks, ties at their mean rank."""
    ones = np.ones((1, len(scores)))
    return float(_pearson(_ranker(scores)(ones), _ranker(ratings)(ones), ones)[0])


def intervals(
    scores: np.ndarray, ratings: np.ndarray, bootstrap: Bootstrap = DEFAULT_BOOTSTRAP
) -> tuple[tuple[float, float] | None, tuple[float, float] | None]:
    """Percentile intervals of SRCC and PLCC: pictures are drawn with replacement, ranks are made anew.

    Args:
        scores: [N], finite.
        ratings: [N], finite.
        bootstrap: How many resamples R, which coverage, which seed.

    Returns:
        Interval of SRCC and of PLCC. Resamples in which one side does not vary have no correlation and are
        left out; None where fewer than half are left.
    """
    x, y = _checked(scores, ratings)
    rank_x, rank_y, x, y = _ranker(x), _ranker(y), _standard(x), _standard(y)
    n, rng = len(x), np.random.default_rng(bootstrap.seed)
    found = np.empty((2, bootstrap.resamples))
    step = max(1, _CHUNK_VALUES // max(1, n))
    for start in range(0, bootstrap.resamples, step):
        rows = min(step, bootstrap.resamples - start)
        drawn = rng.integers(n, size=(rows, n)) + n * np.arange(rows)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=rows * n).reshape(rows, n).astype(np.float64)
        here = slice(start, start + rows)
        found[0, here] = _pearson(rank_x(counts), rank_y(counts), counts)
        found[1, here] = _pearson(x[None], y[None], counts)
    srcc_interval, plcc_interval = (_percentiles(values, bootstrap.confidence) for values in found)
    return srcc_interval, plcc_interval


def fit_logistic(scores: np.ndarray, ratings: np.ndarray) -> Logistic:
    """The least-squares logistic from scores [N] to ratings [N], rising or falling as they correlate.

    Both sides are brought to unit scale first, so that the result does not depend on their units. Started
    from the extreme ratings, the mean score and a quarter of the scores' deviation, as is usual, and from a
    wide curve, which is nearly a straight line; the better end counts.

    Raises:
        Unfit: too few pictures, a side that does not vary, or no convergence.
    """
    x, y = _checked(scores, ratings)
    if len(x) < LEAST_TO_FIT:
        raise Unfit(f"{len(x)} pictures; a logistic of four parameters needs at least {LEAST_TO_FIT}")
    if reason := undefined(x, y):
        raise Unfit(reason)
    centre, spread, low, span = x.mean(), x.std(), y.min(), np.ptp(y)
    falling = srcc(x, y) < 0
    u, v = (centre - x if falling else x - centre) / spread, (y - low) / span  # so that the curve rises
    best: tuple[float, np.ndarray] | None = None
    reason = ""
    for start in ((0.0, 1.0, 0.0, 0.25), (-0.5, 2.0, 0.0, 1.5)):
        try:
            found = _least_squares(u, v, start)
        except (RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split())
            continue
        error_squared = float(np.sum((_rising(u, *found) - v) ** 2))
        if math.isfinite(error_squared) and (best is None or error_squared < best[0]):
            best = error_squared, found
    if best is None:
        raise Unfit(f"the logistic fit did not converge: {reason}")
    bottom, height, middle, width = best[1]
    if np.ptp(_rising(u, *best[1])) < 1e-6:
        raise Unfit(
            "the fitted logistic is flat: no curve in the scores predicts ratings better than their mean"
        )
    ends = float(low + span * (bottom + height)), float(low + span * bottom)
    top, bottom = ends[::-1] if falling else ends
    place = float(centre + (-1.0 if falling else 1.0) * spread * middle)
    return Logistic(top, bottom, place, float(spread * width))


def _least_squares(u: np.ndarray, v: np.ndarray, start: tuple[float, float, float, float]) -> np.ndarray:
    """bottom, height, middle, width on unit scales; the curve may leave the ratings by ten ranges."""
    from scipy.optimize import curve_fit

    reach = 2 * float(np.abs(u).max())
    bounds = ([-10.0, 0.0, -reach, 1e-3], [1.0, 21.0, reach, 20.0])
    found, _ = curve_fit(_rising, u, v, p0=start, bounds=bounds, maxfev=5000)
    return np.asarray(found)


def _rising(u: np.ndarray, bottom: float, height: float, middle: float, width: float) -> np.ndarray:
    return _logistic(u, bottom + height, bottom, middle, width)


def _logistic(x: np.ndarray, top: float, bottom: float, middle: float, width: float) -> np.ndarray:
    from scipy.special import expit

    return bottom + (top - bottom) * expit((x - middle) / width)


def _ranker(values: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """A function from how often each of N values was drawn [R, N] to the mean ranks of the values [R, N].

    Sorting once and counting per resample gives the ranks that sorting each resample would.
    """
    groups, index = np.unique(np.asarray(values, dtype=np.float64), return_inverse=True)
    order = np.argsort(index, kind="stable")
    starts = np.searchsorted(index[order], np.arange(len(groups)))

    def ranks(counts: np.ndarray) -> np.ndarray:
        drawn = np.add.reduceat(counts[:, order], starts, axis=1)  # [R, G]
        return (np.cumsum(drawn, axis=1) - (drawn - 1) / 2)[:, index]

    return ranks


def _pearson(x: np.ndarray, y: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Weighted correlation over the last axis [R]; NaN where a side does not vary among what was drawn."""
    total = counts.sum(axis=1, keepdims=True)
    x = x - (counts * x).sum(axis=1, keepdims=True) / total
    y = y - (counts * y).sum(axis=1, keepdims=True) / total
    xx, yy, xy = ((counts * a * b).sum(axis=1) for a, b in ((x, x), (y, y), (x, y)))
    varies = (xx > 1e-12 * total[:, 0]) & (yy > 1e-12 * total[:, 0])
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(varies, np.clip(xy / np.sqrt(xx * yy), -1.0, 1.0), np.nan)


def _standard(values: np.ndarray) -> np.ndarray:
    """Mean 0, deviation 1, so that `_pearson` can tell a constant from small units."""
    values = np.asarray(values, dtype=np.float64)
    return (values - values.mean()) / (values.std() or 1.0)


def _percentiles(values: np.ndarray, confidence: float) -> tuple[float, float] | None:
    there = values[np.isfinite(values)]
    if 2 * len(there) < len(values):
        return None
    tail = 50.0 * (1.0 - confidence)
    low, high = np.percentile(there, [tail, 100.0 - tail])
    return float(low), float(high)


def _checked(scores: np.ndarray, ratings: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    x, y = np.asarray(scores, dtype=np.float64), np.asarray(ratings, dtype=np.float64)
    if x.ndim != 1 or x.shape != y.shape:
        raise ValueError(f"scores {x.shape} and ratings {y.shape} must be one-dimensional and equally long")
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise ValueError("scores and ratings must be finite; leave out what is missing, and count it")
    return x, y
