"""Score tests of a difference of two success rates, independent or paired; arrays of counts.

Every function takes whole numbers or arrays of them and broadcasts, so that a power can be summed
over all outcomes at once. A score is positive where the observed difference lies above ``delta``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray


def score_of_difference(
    successes_a: ArrayLike, n_a: int, successes_b: ArrayLike, n_b: int, delta: float
) -> NDArray[np.float64]:
    """The score of "rate a minus rate b is ``delta``", -1 < delta < 1, standard normal under it.

    The variance is taken at the most likely rates whose difference is ``delta`` (a cubic equation
    in closed form), times N / (N - 1). Source: Miettinen and Nurminen 1985, equations 8 to 10.
    """
    a = np.asarray(successes_a, dtype=np.float64)
    b = np.asarray(successes_b, dtype=np.float64)
    n = n_a + n_b
    rate_b = _likeliest_rate_b(a, n_a, b, n_b, delta)
    rate_a = np.clip(rate_b + delta, 0.0, 1.0)
    variance = rate_a * (1 - rate_a) / n_a + rate_b * (1 - rate_b) / n_b
    return _divide(a / n_a - b / n_b - delta, variance * n / (n - 1))


def _likeliest_rate_b(
    a: NDArray[Any], n_a: int, b: NDArray[Any], n_b: int, delta: float
) -> NDArray[np.float64]:
    n = n_a + n_b
    square = n + a + b - (n_a + 2 * n_b) * delta
    linear = (n_b * delta - n - 2 * b) * delta + a + b
    constant = b * delta * (1 - delta)
    # n x^3 - square x^2 + linear x + constant = 0, its middle root, by trigonometry.
    shift = square / (3 * n)
    half = -(shift**3) + linear * square / (6 * n * n) + constant / (2 * n)
    width = np.sqrt(np.maximum(0.0, shift**2 - linear / (3 * n)))
    width = np.where(half < 0, -width, width)
    with np.errstate(divide="ignore", invalid="ignore"):
        cosine = np.where(width == 0, 0.0, half / width**3)
    angle = (np.pi + np.arccos(np.clip(cosine, -1.0, 1.0))) / 3
    root: NDArray[np.float64] = 2 * width * np.cos(angle) + shift
    return np.clip(root, max(0.0, -delta), min(1.0, 1.0 - delta))


def score_of_paired_difference(
    only_a: ArrayLike, only_b: ArrayLike, n: int, delta: float
) -> NDArray[np.float64]:
    """The score of "rate a minus rate b is ``delta``" for ``n`` trials played by both.

    ``only_a`` and ``only_b`` count the trials that one alone solved. Source: Tango 1998, equations
    8 and 9 (Statistics in Medicine 17, 891).
    """
    a = np.asarray(only_a, dtype=np.float64)
    b = np.asarray(only_b, dtype=np.float64)
    linear = -a - b + (2 * n - a + b) * delta
    constant = -b * delta * (1 - delta)
    root = np.sqrt(np.maximum(0.0, linear**2 - 8 * n * constant))
    share_b = np.clip((root - linear) / (4 * n), max(0.0, -delta), 1.0)
    return _divide((a - b) / n - delta, (2 * share_b + delta * (1 - delta)) / n)


def _divide(difference: NDArray[Any], variance: NDArray[Any]) -> NDArray[np.float64]:
    """``difference / sqrt(variance)``; without a variance, infinitely far or not at all."""
    with np.errstate(divide="ignore", invalid="ignore"):
        score = difference / np.sqrt(np.maximum(variance, 0.0))
    close: NDArray[np.bool_] = np.abs(difference) < 1e-12
    return np.where(close, 0.0, score)
