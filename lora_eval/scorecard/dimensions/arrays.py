"""Checks of the arrays that formulas are given."""

from __future__ import annotations

import numpy as np


def features(values: np.ndarray, name: str, at_least: int = 1) -> np.ndarray:
    """Features as float64, checked.

    Args:
        values: (n, D), rows of unit length (to 2 %).
        name: of the argument, for the error.
        at_least: smallest n.

    Returns:
        (n, D) float64.

    Raises:
        ValueError: another shape, too few rows, values that are not finite, or rows that are not of unit length.
    """
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
    """Check that two arrays which belong together row by row have the same shape.

    Args:
        first, second: the arrays.
        names: of both arguments, for the error.

    Raises:
        ValueError: the shapes differ.
    """
    if np.shape(first) != np.shape(second):
        raise ValueError(f"{names} must have the same shape, got {np.shape(first)} and {np.shape(second)}")
