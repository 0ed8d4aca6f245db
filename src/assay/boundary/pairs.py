"""The kinds of pairs that paths inside a class region are sought between (Fawzi et al. 2018, section on topology)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from assay.attacks import deepfool
from assay.attacks.target import Bounds
from assay.boundary.field import Field, field_of
from assay.seeding import content_generator

Pairs = Mapping[str, tuple[Tensor, Tensor]]

REGIMES = ("image-image", "image-perturbed", "image-noise", "perturbed-perturbed")
"""Two inputs of one predicted class; an input and one of another class pushed into it; an input and noise pushed into
it; two inputs of other classes pushed into one."""


def regimes(model: object, x: Tensor, count: int, *, bounds: Bounds = None, seed: int = 0) -> Pairs:
    """Pairs of points of one predicted class each, of four kinds.

    A point is pushed into a class by DeepFool with that class as its target; pairs where that fails are left out.

    Args:
        model: a module, a Subject or a function (B, ...) -> (B, K).
        x: (N, ...) inputs to choose from; noise is uniform over their range.
        count: pairs per kind, fewer where the data do not allow so many.
        bounds: legal range of inputs.
        seed: of the choice and of the noise.

    Returns:
        (first, second) points, (P, ...) each, by kind.

    Example:
        >>> def model(x):
        ...     return torch.stack([x[:, 0], -x[:, 0]], 1)
        >>> x = torch.tensor([[1.0, 0.0], [2.0, 1.0], [-1.0, 0.5], [-2.0, 1.0]])
        >>> {kind: tuple(first.shape) for kind, (first, _) in regimes(model, x, 1).items()}
        {'image-image': (1, 2), 'image-perturbed': (1, 2), 'image-noise': (1, 2), 'perturbed-perturbed': (0, 2)}
    """
    field = field_of(model)  # pyright: ignore[reportArgumentType]
    x = field.prepared(x)
    label = field.label(x)
    generator = content_generator(x, seed)
    order = torch.randperm(len(x), generator=generator)
    same, crossed = _partners(label, order, count)
    low, high = bounds or (float(x.min()), float(x.max()))
    rows = order[torch.arange(count) % len(order)]
    drawn = torch.rand((count, *x.shape[1:]), generator=generator, dtype=torch.float64)
    noise = (low + (high - low) * drawn).to(x.dtype)
    pushed = _pushed(field, x[crossed[:, 1]], label[crossed[:, 0]], bounds)
    return {
        "image-image": (x[same[:, 0]], x[same[:, 1]]),
        "image-perturbed": _kept(field, x[crossed[:, 0]], pushed),
        "image-noise": _kept(field, x[rows], _pushed(field, noise, label[rows], bounds)),
        "perturbed-perturbed": _kept(field, *_two_pushed(field, x, label, crossed, pushed, bounds)),
    }


def _partners(label: Tensor, order: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Rows (P, 2) of one predicted class, and rows (P, 2) of two."""
    same: list[tuple[int, int]] = []
    crossed: list[tuple[int, int]] = []
    places = order.tolist()
    classes = label.tolist()
    for step in range(1, len(places)):
        for at, row in enumerate(places):
            other = places[(at + step) % len(places)]
            group = same if classes[row] == classes[other] else crossed
            if len(group) < count and row != other:
                group.append((row, other))
        if len(same) >= count and len(crossed) >= count:
            break
    return torch.tensor(same).reshape(-1, 2).long(), torch.tensor(crossed).reshape(-1, 2).long()


def _pushed(field: Field, x: Tensor, target: Tensor, bounds: Bounds) -> Tensor:
    return deepfool(field.target, x, target=target, bounds=bounds) if len(x) else x


def _two_pushed(
    field: Field, x: Tensor, label: Tensor, crossed: Tensor, pushed: Tensor, bounds: Bounds
) -> tuple[Tensor, Tensor]:
    """Two inputs of other classes, each pushed into the class of the first of `crossed`."""
    kept: list[int] = []
    second: list[int] = []
    for place, (of, first) in enumerate(crossed.tolist()):
        others = [*crossed[place + 1 :, 1].tolist(), *crossed[:place, 1].tolist()]
        fitting = [row for row in others if row != first and label[row] != label[of]]
        if fitting:
            kept.append(place)
            second.append(fitting[0])
    places, rows = torch.tensor(kept).long(), torch.tensor(second).long()
    return pushed[places], _pushed(field, x[rows], label[crossed[places, 0]], bounds)


def _kept(field: Field, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Pairs that the network gives one class."""
    if not len(first):
        return first, second
    same = field.label(first) == field.label(second)
    return first[same], second[same]
