"""What every metric asks of its arrays."""

from __future__ import annotations

import numpy as np


def features(values: np.ndarray, name: str, at_least: int = 1) -> np.ndarray:
    """(n, D) unit features as float64 rows; raises ValueError naming the argument."""
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 2 or array.shape[0] < at_least:
        raise ValueError(f"{name} must be (n, D) with n >= {at_least}, got shape {np.shape(values)}")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} has values that are not finite")
    lengths = np.linalg.norm(array, axis=1)
    if np.any(np.abs(lengths - 1.0) > 0.02):
        raise ValueError(f"{name} must have unit length, row {int(np.argmax(np.abs(lengths - 1.0)))} has not")
    return array


def same_shape(first: np.ndarray, second: np.ndarray, names: str) -> None:
    """Raises ValueError when two arrays that belong row to row differ in shape."""
    if np.shape(first) != np.shape(second):
        raise ValueError(f"{names} must have the same shape, got {np.shape(first)} and {np.shape(second)}")
