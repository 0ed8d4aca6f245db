"""Bootstrap over samples, with resamples that depend on the data alone: the same for every unit, order and machine."""

from __future__ import annotations

import hashlib

import numpy as np

CHUNK = 2**22  # numbers drawn at a time: 32 MiB


def resampled_means(columns: np.ndarray, draws: int, key: bytes) -> np.ndarray:
    """Means of the columns over samples drawn with replacement (Efron 1979).

    Args:
        columns: (N, m) numbers; one resample serves all columns, so that their dependence is kept.
        draws: number of resamples.
        key: the random numbers follow from this and N alone.

    Returns:
        (draws, m) float64. Grade: sampled.

    Example:
        >>> means = resampled_means(np.array([[0.0], [1.0]]), 1000, b"key")
        >>> means.mean().round(1).item(), sorted(set(means[:, 0].tolist()))
        (0.5, [0.0, 0.5, 1.0])
    """
    count = len(columns)
    columns = np.asarray(columns, dtype=np.float64)
    generator = np.random.Generator(np.random.PCG64(int.from_bytes(hashlib.sha256(key).digest(), "little")))
    result = np.empty((draws, columns.shape[1]))
    step = max(1, CHUNK // count)
    for begin in range(0, draws, step):
        rows = min(step, draws - begin)
        picked = generator.integers(count, size=(rows, count))
        picked += count * np.arange(rows)[:, None]
        counts = np.bincount(picked.ravel(), minlength=rows * count).reshape(rows, count)
        result[begin : begin + rows] = counts.astype(np.float64) @ columns / count
    return result


def content_key(*arrays: np.ndarray | None, seed: int) -> bytes:
    """A key for `resampled_means` from the values of arrays and a seed."""
    digest = hashlib.sha256(str(seed).encode())
    for array in arrays:
        if array is not None:
            digest.update(f"|{array.shape}|".encode())
            digest.update(np.ascontiguousarray(array, dtype=np.float64).tobytes())
    return digest.digest()


def interval(draws: np.ndarray, value: float, level: float) -> tuple[float, float]:
    """Percentile interval, widened where needed to hold the value itself; all numbers where a draw is undefined."""
    if not np.isfinite(draws).all():
        return -np.inf, np.inf
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return min(float(low), value), max(float(high), value)
