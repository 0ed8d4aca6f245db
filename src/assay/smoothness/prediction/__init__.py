"""SMP predicted from the law of the input: a domain of the graph interpreter, and the Gaussian plug-in along a path.

`predict` needs no path; `plug_in` uses moments measured along one; `agreement` sets either against a measurement.
"""

from assay.smoothness.prediction.plug_in import plug_in
from assay.smoothness.prediction.predict import predict, predict_network
from assay.smoothness.prediction.process import Process
from assay.smoothness.prediction.result import Agreement, LayerLaw, Prediction, agreement

__all__ = [
    "Agreement",
    "LayerLaw",
    "Prediction",
    "Process",
    "agreement",
    "plug_in",
    "predict",
    "predict_network",
]
