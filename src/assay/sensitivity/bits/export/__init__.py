"""Ways out of a bit plan: a JSON file that can be read again, a QDQ ONNX model, a torchao copy of the model.

Each reports what it could not keep, and is measured by running it for real.
"""

from typing import TYPE_CHECKING

from assay._lazy import lazily

if TYPE_CHECKING:
    from assay.sensitivity.bits.export.ao import quantised_copy as quantised_copy
    from assay.sensitivity.bits.export.plan_file import PlanFile as PlanFile
    from assay.sensitivity.bits.export.plan_file import read_plan as read_plan
    from assay.sensitivity.bits.export.plan_file import write_plan as write_plan
    from assay.sensitivity.bits.export.qdq import onnx_outputs as onnx_outputs
    from assay.sensitivity.bits.export.qdq import write_qdq as write_qdq

__getattr__, __all__ = lazily(  # pyright: ignore[reportUnsupportedDunderAll]
    __name__,
    {
        "ao": ("quantised_copy",),
        "plan_file": ("PlanFile", "read_plan", "write_plan"),
        "qdq": ("onnx_outputs", "write_qdq"),
    },
)
