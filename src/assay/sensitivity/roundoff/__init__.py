"""Round-off: number formats that really round, error models of accumulation, where a graph rounds, and simulation.

`sites` itself is imported from `roundoff.sites`: on the package the name means the module.
"""

from typing import TYPE_CHECKING

from assay._lazy import lazily

if TYPE_CHECKING:
    from assay.sensitivity.roundoff.accumulation import Accumulation as Accumulation
    from assay.sensitivity.roundoff.accumulation import gamma as gamma
    from assay.sensitivity.roundoff.accumulation import gamma_probabilistic as gamma_probabilistic
    from assay.sensitivity.roundoff.accumulation import gamma_sqrt as gamma_sqrt
    from assay.sensitivity.roundoff.calibration import calibrate as calibrate
    from assay.sensitivity.roundoff.estimate import RoundoffError as RoundoffError
    from assay.sensitivity.roundoff.estimate import first_order_coefficients as first_order_coefficients
    from assay.sensitivity.roundoff.estimate import roundoff_error as roundoff_error
    from assay.sensitivity.roundoff.formats import FORMATS as FORMATS
    from assay.sensitivity.roundoff.formats import FixedPoint as FixedPoint
    from assay.sensitivity.roundoff.formats import FloatFormat as FloatFormat
    from assay.sensitivity.roundoff.formats import Format as Format
    from assay.sensitivity.roundoff.formats import IntegerFormat as IntegerFormat
    from assay.sensitivity.roundoff.formats import as_format as as_format
    from assay.sensitivity.roundoff.formats import calibrated as calibrated
    from assay.sensitivity.roundoff.formats import precision as precision
    from assay.sensitivity.roundoff.range import ExponentBits as ExponentBits
    from assay.sensitivity.roundoff.range import exponent_bits as exponent_bits
    from assay.sensitivity.roundoff.range import layer_exponent_bits as layer_exponent_bits
    from assay.sensitivity.roundoff.simulation import Simulator as Simulator
    from assay.sensitivity.roundoff.simulation import simulate as simulate
    from assay.sensitivity.roundoff.sites import Precision as Precision
    from assay.sensitivity.roundoff.sites import Site as Site
    from assay.sensitivity.roundoff.sites import prepared_graph as prepared_graph

__getattr__, __all__ = lazily(  # pyright: ignore[reportUnsupportedDunderAll]
    __name__,
    {
        "accumulation": ("Accumulation", "gamma", "gamma_probabilistic", "gamma_sqrt"),
        "calibration": ("calibrate",),
        "estimate": ("RoundoffError", "first_order_coefficients", "roundoff_error"),
        "formats": (
            "FORMATS",
            "FixedPoint",
            "FloatFormat",
            "Format",
            "IntegerFormat",
            "as_format",
            "calibrated",
            "precision",
        ),
        "range": ("ExponentBits", "exponent_bits", "layer_exponent_bits"),
        "simulation": ("Simulator", "simulate"),
        "sites": ("Precision", "Site", "prepared_graph"),
    },
)
