"""Noise confined to subspaces: which directions change decisions, and is it their curvature?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from assay.attacks.target import Model
from assay.boundary.field import Field, field_of
from assay.boundary.subspaces.bases import orthonormal, overlap, random_subspace
from assay.boundary.subspaces.shared import SharedDirections
from assay.errors import UsageError
from assay.grade import Grade
from assay.results import Displayed
from assay.seeding import content_generator

SIZES = (0.1, 0.2, 0.4, 0.8)
"""Norms of the noise, as shares of the norm of the input."""
_BLOCK = 2**22


@dataclass(frozen=True, eq=False)
class SubspaceNoise(Displayed):
    """Decisions changed by noise in subspaces. S subspaces, L sizes, B inputs.

    Attributes:
        names: of the S subspaces; ``full`` and ``random`` are always among them, and ``gradient``, the control for the
            claim that curved directions are the vulnerable ones, whenever shared directions were given.
        sizes: (L,) noise norms, relative to the norm of the input unless `relative` is False.
        rate: (S, L) share of draws whose decision changed.
        low: (S, L) lower end of the interval of `rate` over inputs and draws (Wilson).
        high: (S, L) upper end.
        per_input: (S, L, B) the share for every input.
        dimensions: (S,) of the subspaces.
        overlap: (S, S) share of the smaller subspace that lies in the larger.
        chance: (S, S) what random subspaces of these dimensions overlap by on average.
        draws: per input and size.
        level: of the intervals.
        relative: whether sizes are multiples of the norm of the input.
        grade: sampled.
    """

    names: tuple[str, ...]
    sizes: Tensor
    rate: Tensor
    low: Tensor
    high: Tensor
    per_input: Tensor
    dimensions: Tensor
    overlap: Tensor
    chance: Tensor
    draws: int
    level: float
    relative: bool
    grade: Grade = Grade.SAMPLED

    def difference(self, one: str = "curved", other: str = "gradient") -> tuple[Tensor, Tensor, Tensor]:
        """How much more often noise in one subspace changes decisions than in another, over the same inputs.

        Args:
            one: name of a subspace.
            other: of the one to subtract.

        Returns:
            The difference of rates (L,) and the ends of its interval over inputs, (L,) each. Grade: sampled.

        Raises:
            UsageError: for a name that is not there.

        Source: Wald interval for paired shares with pseudo-counts (Agresti and Min 2005).
        """
        for name in (one, other):
            if name not in self.names:
                raise UsageError(f"There is no subspace {name!r}.", where="difference", advice=f"Use {self.names}.")
        change = self.per_input[self.names.index(one)] - self.per_input[self.names.index(other)]
        count = change.shape[1]
        middle = change.sum(1) / (count + 2)
        error = ((change.square().sum(1) + 1) / (count + 2) - middle.square()).clamp(min=0).sqrt() / math.sqrt(
            count + 2
        )
        reach = _quantile(self.level) * error
        return change.mean(1), middle - reach, middle + reach


def subspace_noise(
    model: Model | Field,
    x: Tensor,
    subspaces: SharedDirections | Mapping[str, Tensor],
    sizes: Sequence[float] = SIZES,
    *,
    dimension: int | None = None,
    draws: int = 1,
    relative: bool = True,
    seed: int = 0,
    level: float = 0.95,
    batch_size: int | None = None,
) -> SubspaceNoise:
    """How often noise of a given norm in subspaces of the input changes decisions.

    Every draw is uniform on the sphere of its subspace. From shared directions the subspaces are ``curved`` (the
    first), ``flat`` (the last, or orthogonal to all) and ``gradient`` (the first singular vectors of boundary normals),
    all of one dimension; noise in the gradient subspace tells how much of the effect first-order sensitivity explains.
    A ``random`` subspace of the first subspace's dimension and the ``full`` space are added.

    Args:
        model: a module, a Subject, a function (B, ...) -> (B, K), or a Field.
        x: (B, ...) inputs, best ones that the subspaces were not made from.
        subspaces: of `shared_directions`, or vectors (m, ...) that span each subspace, by name.
        sizes: norms of the noise, each 0 or more.
        dimension: of the subspaces made from shared directions; None takes 100, or what there is of all three.
        draws: per input and size; the same directions for all sizes.
        relative: whether sizes multiply the norm of the input; False takes them as norms.
        seed: the draws of an input follow from this and the input alone.
        level: of the intervals.
        batch_size: samples per pass; None chooses by memory.

    Returns:
        SubspaceNoise. Noise is not clipped to any range. Costs S L draws forward passes per input.

    Raises:
        UsageError: for sizes, draws or subspaces that make no sense.

    Source: Fawzi et al. (2018) for noise in curved and flat subspaces; Jetley, Lord and Torr
        (2018) for the gradient subspace.

    Example:
        >>> pictures = torch.tensor([[2.0, 1.0, 5.0]])  # decided by the first two elements only
        >>> found = subspace_noise(lambda x: x[:, :2], pictures, {"unused": torch.tensor([[0.0, 0.0, 1.0]])}, draws=100)
        >>> float(found.rate[0].max()), bool(found.rate[found.names.index("full"), -1] > 0.2)
        (0.0, True)
    """
    field = field_of(model, batch_size=batch_size)
    x = field.prepared(x)
    if draws < 1 or not sizes or not all(math.isfinite(size) and size >= 0 for size in sizes):
        raise UsageError(
            "Noise needs at least one draw and one size, each 0 or more.",
            where="sizes or draws",
            advice=f"Try {SIZES}.",
        )
    bases = _bases(x, subspaces, dimension, seed)
    own = field.label(x)
    flat = x.flatten(1)
    length = flat.double().norm(dim=1) if relative else torch.ones(len(x), dtype=torch.float64, device=x.device)
    counts = torch.zeros(len(bases), len(sizes), len(x), dtype=torch.float64)
    step = max(1, _BLOCK // (flat.shape[1] * draws))
    for place, basis in enumerate(bases.values()):
        rows = None if basis is None else basis.to(x)
        for begin in range(0, len(x), step):
            part = slice(begin, begin + step)
            directions = torch.stack([_directions(point, rows, draws, seed) for point in x[part]])
            for column, size in enumerate(sizes):
                moves = (size * length[part]).to(x)[:, None, None] * directions
                moved = (flat[part, None] + moves).reshape(-1, *x.shape[1:])
                labels = field.label(moved).reshape(-1, draws)
                counts[place, column, part] = (labels != own[part, None]).double().mean(1).cpu()
    low, high = _interval(counts, draws, level)
    shared, chance = _overlaps(list(bases.values()), flat.shape[1])
    return SubspaceNoise(
        names=tuple(bases),
        sizes=torch.tensor(sizes, dtype=torch.float64),
        rate=counts.mean(2),
        low=low,
        high=high,
        per_input=counts,
        dimensions=torch.tensor([flat.shape[1] if basis is None else len(basis) for basis in bases.values()]),
        overlap=shared,
        chance=chance,
        draws=draws,
        level=level,
        relative=relative,
    )


def _bases(
    x: Tensor, subspaces: SharedDirections | Mapping[str, Tensor], dimension: int | None, seed: int
) -> dict[str, Tensor | None]:
    size = x[0].numel()
    if isinstance(subspaces, SharedDirections):
        subspaces = subspaces.subspaces(dimension, seed=seed)
    if not subspaces:
        raise UsageError("There are no subspaces.", where="subspaces", advice="Give vectors (m, ...) by name.")
    bases: dict[str, Tensor | None] = {}
    for name, vectors in subspaces.items():
        if vectors.dim() < 2 or vectors[0].numel() != size:
            raise UsageError(
                f"Vectors of shape {tuple(vectors.shape)} span no subspace of inputs {tuple(x.shape[1:])}.",
                where=f"subspaces[{name!r}]",
                advice="Give (m, ...), one vector of the input's shape per row.",
            )
        bases[name] = orthonormal(vectors)
    dimension = len(next(basis for basis in bases.values() if basis is not None))
    bases.setdefault("random", random_subspace(size, dimension, torch.Generator().manual_seed(seed)))
    bases.setdefault("full", None)
    return bases


def _directions(point: Tensor, basis: Tensor | None, draws: int, seed: int) -> Tensor:
    """(draws, d) uniform on the unit sphere of a subspace."""
    generator = content_generator(point, seed)
    count = point.numel() if basis is None else len(basis)
    draw = torch.randn((draws, count), generator=generator, dtype=torch.float64)
    draw = (draw / draw.norm(dim=1, keepdim=True)).to(point)
    return draw if basis is None else draw @ basis


def _interval(counts: Tensor, draws: int, level: float) -> tuple[Tensor, Tensor]:
    """Wilson interval with as many independent trials as the spread over inputs says there are."""
    inputs = counts.shape[2]
    rate = counts.mean(2)
    trials = torch.full_like(rate, float(inputs))
    if draws > 1 and inputs > 1:
        spread = counts.var(2) / inputs
        trials = torch.where(spread > 0, (rate * (1 - rate) / spread).clamp(inputs, inputs * draws), trials)
    z = _quantile(level)
    centre = (rate + z**2 / (2 * trials)) / (1 + z**2 / trials)
    reach = z / (1 + z**2 / trials) * (rate * (1 - rate) / trials + z**2 / (4 * trials.square())).sqrt()
    return (centre - reach).clamp(min=0), (centre + reach).clamp(max=1)


def _overlaps(bases: list[Tensor | None], size: int) -> tuple[Tensor, Tensor]:
    found = torch.ones(len(bases), len(bases), dtype=torch.float64)  # a part of the full space lies in it
    chance = torch.ones_like(found)
    for i, one in enumerate(bases):
        for j, other in enumerate(bases):
            if one is not None and other is not None:
                found[i, j], chance[i, j] = overlap(one, other)
    return found, chance


def _quantile(level: float) -> float:
    from scipy.stats import norm

    return float(norm.ppf((1 + level) / 2))
