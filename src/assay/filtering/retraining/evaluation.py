"""How every network is judged: clean, and attacked anew, never on examples made for another network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from assay.attacks import Attack, attack_of, attacked, target_of
from assay.attacks.target import chunk_size
from assay.errors import NumericalError
from assay.filtering.retraining.splits import Bounds, Pair

PGD_STEPS = (10, 20)


def measures_of(attack: str | Attack, epsilon: float | None) -> dict[str, Attack | None]:
    """What is measured, by name: ``clean`` without an attack, and attacks at one size.

    Args:
        attack: ``fgsm`` and ``pgd`` give ``fgsm``, ``pgd-10`` and ``pgd-20``; ``pgd-l2`` gives ``pgd-l2-10`` and
            ``pgd-l2-20``; a function is measured as it is, under its own name.
        epsilon: size of the change.

    Returns:
        Attacks by name.
    """
    found: dict[str, Attack | None] = {"clean": None}
    if not isinstance(attack, str):
        return found | {getattr(attack, "__name__", type(attack).__name__): attack_of(attack, epsilon=epsilon)}
    family = "pgd-l2" if attack == "pgd-l2" else "pgd"
    if family == "pgd":
        found["fgsm"] = attack_of("fgsm", epsilon=epsilon)
    return found | {f"{family}-{steps}": attack_of(family, epsilon=epsilon, steps=steps) for steps in PGD_STEPS}


def correct_on(
    network: nn.Module, samples: Pair, measures: Mapping[str, Attack | None], bounds: Bounds, where: str
) -> dict[str, np.ndarray]:
    """Which samples the network gets right under every measure, the attack made on this very network.

    Args:
        network: in evaluation mode.
        samples: to judge on.
        measures: attacks by name, None for clean.
        bounds: legal range of inputs, or None.
        where: arm and seed, for errors.

    Returns:
        (N,) bool by measure.

    Raises:
        NumericalError: for outputs or gradients that are not finite.
    """
    target = target_of(network)
    found: dict[str, np.ndarray] = {}
    try:
        for name, attack in measures.items():
            x = samples.x
            if attack is not None:
                x = attacked(attack, target, x, samples.y, bounds=bounds)
            found[name] = (_outputs(target, x).argmax(1) == samples.y).numpy()
    except NumericalError as error:
        raise NumericalError(error.what, where=f"{where}, {error.where}", advice=error.advice) from error
    return found


def _outputs(target: Any, x: Tensor) -> Tensor:
    with torch.no_grad():
        outputs = torch.cat([target(part.clone()) for part in x.split(chunk_size(x, None))])
    if not bool(torch.isfinite(outputs).all()):
        raise NumericalError(
            "The network returns NaN or infinity.", where="test samples", advice="Use a smaller learning rate."
        )
    return outputs
