"""What is left of a kink when its threshold is softened, seen at the resolution of a sampled path."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

Softening = Literal["silu", "softplus"]

_AT_ONCE = 2**20  # kinks times samples per block


def softened_height(sharpness: Tensor | float, step: float, kind: Softening = "softplus") -> Tensor:
    """Height of the second difference of a softened unit kink, over the step, with a sample on the kink.

    A kink max(t, 0) has height 1. Softened with sharpness b and sampled at -h, 0, h:

    - softplus, log(1 + e^{bt}) / b: [f(h) - 2 f(0) + f(-h)] / h = (2 / (b h)) log cosh(b h / 2)
    - SiLU, t sigmoid(b t): tanh(b h / 2), because f(h) + f(-h) = h (sigmoid(b h) - sigmoid(-b h))

    Both go to 1 for b h >> 1 (kink-like) and vanish with b h (smooth), as b h / 4 and b h / 2.

    Args:
        sharpness: b of the kink in time, per parameter unit: that of the activation times the speed |z'| of its input.
        step: h.
        kind: which function.

    Returns:
        Heights between 0 and 1, of the shape of `sharpness`, float64.

    Example:
        >>> [round(softened_height(b, 0.1).item(), 6) for b in (2.0, 10.0, 100.0)]
        [0.049917, 0.240229, 0.86138]
    """
    half = torch.as_tensor(sharpness, dtype=torch.float64) * step / 2
    if kind == "silu":
        return torch.tanh(half)
    log_cosh = half + torch.log1p(torch.expm1(-2 * half) / 2)  # = log((e^x + e^-x) / 2) without overflow
    return torch.where(half > 1e-4, log_cosh / half.clamp(min=1e-300), half / 2)


def softened(t: Tensor, places: Tensor, jumps: Tensor, sharpness: Tensor, kind: Softening) -> Tensor:
    """What outputs gain when some of their kinks are softened: the sum over kinks of J (smooth function - kink).

    Args:
        t: (n,) parameters.
        places: (m,) parameters tau of the kinks.
        jumps: (m, K) jumps J.
        sharpness: (m,) b in time, see `softened_height`.
        kind: which function.

    Returns:
        (n, K), to be added to the outputs at t. Time n m.
    """
    change = torch.zeros(len(t), jumps.shape[1], dtype=torch.float64)
    for rows in torch.arange(len(places)).split(max(1, _AT_ONCE // max(1, len(t)))) if len(places) else ():
        change += _excess(t[:, None] - places[rows], sharpness[rows], kind) @ jumps[rows]
    return change


def returning(others: Tensor, sharpness: float) -> Tensor:
    """Jumps that a max pool makes of a softened ReLU, as a share of the ReLU's own: SiLU turns around below 0.

    While its largest input z wakes up, a window takes the largest of s(z) = z sigmoid(b z), and that is the silent
    input o with the value nearest to 0. It hands over at both roots of s(z) = s(o). One is z = o, a kink of the pool
    with or without SiLU; the other is new and has the jump |s'| there. For b o far below 0 that is 1/2.

    Args:
        others: (m, k) inputs of the window but the largest; -inf where there is none.
        sharpness: b.

    Returns:
        (m,) shares between 0 and 0.5.
    """
    import numpy as np

    scaled = sharpness * others.clamp(max=0, min=-1e6 / sharpness)
    level, best = torch.where(torch.isfinite(others), scaled * torch.sigmoid(scaled), -torch.inf).max(1)
    resting = scaled.gather(1, best[:, None])[:, 0]
    shares = []
    for end in (0.0, -40.0):  # right and left root
        z = torch.linspace(_TURN, end, 4001, dtype=torch.float64)
        gate = torch.sigmoid(z)
        slope = (gate * (1 + z * (1 - gate))).abs()
        shares.append(torch.from_numpy(np.interp(level.numpy(), (z * gate).numpy(), slope.numpy())))
    share = torch.where(resting < _TURN, *shares)
    return torch.where(torch.isfinite(level), share, 0.0)


_TURN = -1.2784645427610738
"""Where z sigmoid(z) turns around."""


def _excess(t: Tensor, b: Tensor, kind: Softening) -> Tensor:
    """Smooth function less max(t, 0): symmetric in t, without cancellation."""
    size = t.abs()
    if kind == "softplus":
        return torch.log1p(torch.exp(-b * size)) / b.clamp(min=math.ulp(0.0))
    return -size * torch.sigmoid(-b * size)
