"""Indices of data by loops over their definitions."""

from __future__ import annotations

import math

from torch import Tensor


def distances(points: Tensor) -> list[list[float]]:
    rows = points.reshape(len(points), -1).tolist()
    return [[math.dist(one, other) for other in rows] for one in rows]


def neighbours(points: Tensor, k: int) -> list[list[int]]:
    far = distances(points)
    count = range(len(far))
    return [sorted((j for j in count if j != i), key=lambda j: (far[i][j], j))[:k] for i in count]


def separation(points: Tensor, labels: list[int], order: int, kind: str) -> list[float]:
    near = neighbours(points, order)
    same = [[labels[j] == labels[i] for j in row] for i, row in enumerate(near)]
    score = {"high": all, "soft": lambda row: sum(row) / order, "anti": lambda row: not any(row)}[kind]
    return [float(score(row)) for row in same]


def smoothness(points: Tensor, targets: Tensor, order: int, kind: str, form: str, gamma: float = 1.0) -> list[float]:
    near, far = neighbours(points, order), distances(targets)
    scores = []
    for i, row in enumerate(far):
        others = sorted(d for j, d in enumerate(row) if j != i)
        each = []
        for j in range(order):
            found, best = row[near[i][j]], others[j]
            if form == "linear":
                each.append((others[-1] - found) / (others[-1] - best) if others[-1] > best else 1.0)
            else:
                mean = sum(row) / len(row)
                each.append(math.exp(-gamma * (found - best) / mean) if mean > 0 else 1.0)
        summary = {"high": min, "soft": lambda v: sum(v) / order, "anti": lambda v: 1 - max(v)}[kind]
        scores.append(summary(each))
    return scores
