"""Intervals of shares against textbook values."""

from __future__ import annotations

import pytest

from assay.intervals import wilson


@pytest.mark.parametrize(
    ("share", "count", "low", "high"),
    [(0.0, 10, 0.0, 0.2775), (0.5, 10, 0.2366, 0.7634), (0.5, 100, 0.4038, 0.5962), (1.0, 10, 0.7225, 1.0)],
)
def test_wilson(share: float, count: int, low: float, high: float) -> None:
    """Brown, Cai, DasGupta, Statistical Science 2001."""
    assert wilson(share, count) == pytest.approx((low, high), abs=1e-4)


def test_ends_stay_within_shares() -> None:
    assert wilson(1.0, 3)[1] == 1.0
    assert wilson(0.0, 3)[0] == 0.0
