"""How relative changes of the input, the weights, the biases and the arithmetic add up along a chain of layers."""

from __future__ import annotations

import torch
from torch import Tensor

from assay.errors import UsageError

Change = float | Tensor


def theorem_a(
    conditions: Tensor,
    input_change: Change = 0.0,
    *,
    weight_change: Change = 0.0,
    bias_change: Change = 0.0,
    local_error: Change = 0.0,
) -> Tensor:
    """Guaranteed relative output change of a chain x_l = phi_l(W_l x_(l-1) + b_l), for changes of any size.

    With kappa_l = A_l ||W_l|| ||x_(l-1)|| / ||x_l|| at the data point and A_l the Lipschitz constant of phi_l,

        e_l <= kappa_l [(1 + w_l) e_(l-1) + w_l + beta_l + rho_l],

    because the changed pre-activation differs by W dx + dW (x + dx) + db + eta: take norms, divide by ||x_l||. A bias
    may make a kappa_l smaller than 1. The kappas telescope: for the input alone, e_L = e_0 prod kappa_l does not depend
    on the norms inside; for changes inside the network it does.

    Args:
        conditions: (..., L) kappa_l, for example from `chain_conditions`.
        input_change: e_0 = ||dx|| / ||x||, (...).
        weight_change: w_l = ||dW_l|| / ||W_l||, a number or (..., L).
        bias_change: beta_l = ||db_l|| / (||W_l|| ||x_(l-1)||), a number or (..., L).
        local_error: rho_l = ||eta_l|| / (||W_l|| ||x_(l-1)||), a number or (..., L): what the arithmetic adds.

    Returns:
        (..., L) e_1 ... e_L, the last the output's; grade `bound` where the kappas hold guaranteed norms.

    Raises:
        UsageError: for negative or NaN changes or conditions, or shapes that do not fit.

    Example:
        >>> import torch
        >>> theorem_a(torch.tensor([2.0, 3.0]), 0.1, weight_change=0.01)
        tensor([0.2220, 0.7027], dtype=torch.float64)
    """
    kappa = torch.as_tensor(conditions, dtype=torch.float64)
    inside = [torch.as_tensor(one, dtype=torch.float64) for one in (weight_change, bias_change, local_error)]
    error = torch.as_tensor(input_change, dtype=torch.float64)
    if not all(bool((one >= 0).all()) for one in (kappa, error, *inside)):
        raise UsageError(
            "Relative changes and conditions are norms: they cannot be negative or NaN.",
            where="theorem_a",
            advice="Divide each norm of a change by the norm it is relative to.",
        )
    try:
        weights, biases, local = (one.expand(torch.broadcast_shapes(one.shape, kappa.shape)) for one in inside)
        steps = []
        for layer in range(kappa.shape[-1]):
            own = weights[..., layer] + biases[..., layer] + local[..., layer]
            error = kappa[..., layer] * ((1 + weights[..., layer]) * error + own)
            steps.append(error)
        return torch.stack(torch.broadcast_tensors(*steps), -1)
    except RuntimeError as failure:
        raise UsageError(
            f"Shapes do not fit: conditions {tuple(kappa.shape)}, input_change {tuple(error.shape)}.",
            where="theorem_a",
            advice="Give one number per layer on the last axis.",
        ) from failure
