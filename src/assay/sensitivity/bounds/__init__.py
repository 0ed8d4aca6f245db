"""How much a change of the input can change the output: a ladder from guaranteed and loose to tight and first order.

`lipschitz_bound` holds for all inputs and any size of change; `certified_ball` for all changes up to a radius around an
input; both live in `assay.certified`. `stage_norms` and `condition_number` are first order at an input. `ladder` puts
them side by side.
"""

from typing import TYPE_CHECKING

from assay._lazy import lazily

if TYPE_CHECKING:
    from assay.certified import CertifiedBall as CertifiedBall
    from assay.certified import CertifiedRadius as CertifiedRadius
    from assay.certified import LipschitzBound as LipschitzBound
    from assay.certified import bound_graph as bound_graph
    from assay.certified import certified_ball as certified_ball
    from assay.certified import certified_radius as certified_radius
    from assay.certified import lipschitz_bound as lipschitz_bound
    from assay.sensitivity.bounds.componentwise import componentwise_condition as componentwise_condition
    from assay.sensitivity.bounds.componentwise import infinity_condition as infinity_condition
    from assay.sensitivity.bounds.conditions import ChainConditions as ChainConditions
    from assay.sensitivity.bounds.conditions import chain_conditions as chain_conditions
    from assay.sensitivity.bounds.local_norms import layer_norm_jacobian_norm as layer_norm_jacobian_norm
    from assay.sensitivity.bounds.local_norms import rms_norm_jacobian_norm as rms_norm_jacobian_norm
    from assay.sensitivity.bounds.local_norms import softmax_jacobian_norm as softmax_jacobian_norm
    from assay.sensitivity.bounds.rungs import Ladder as Ladder
    from assay.sensitivity.bounds.rungs import Rung as Rung
    from assay.sensitivity.bounds.rungs import ladder as ladder
    from assay.sensitivity.bounds.stage import Stage as Stage
    from assay.sensitivity.bounds.stage import StageNorms as StageNorms
    from assay.sensitivity.bounds.stage import stage_norms as stage_norms
    from assay.sensitivity.bounds.stage import stages as stages
    from assay.sensitivity.bounds.theorem import theorem_a as theorem_a

__getattr__, __all__ = lazily(  # pyright: ignore[reportUnsupportedDunderAll]
    __name__,
    {
        "assay.certified": (
            "CertifiedBall",
            "CertifiedRadius",
            "LipschitzBound",
            "bound_graph",
            "certified_ball",
            "certified_radius",
            "lipschitz_bound",
        ),
        "componentwise": ("componentwise_condition", "infinity_condition"),
        "conditions": ("ChainConditions", "chain_conditions"),
        "rungs": ("Ladder", "Rung", "ladder"),
        "local_norms": ("layer_norm_jacobian_norm", "rms_norm_jacobian_norm", "softmax_jacobian_norm"),
        "stage": ("Stage", "StageNorms", "stage_norms", "stages"),
        "theorem": ("theorem_a",),
    },
)
