"""`demo` and `sklearn:NAME`: data that are on every machine assay is installed on."""

from __future__ import annotations

import torch

from assay.errors import UsageError
from assay.load.choose import chosen_rows
from assay.load.convert import data_from_arrays
from assay.load.demo import demo_data
from assay.load.registry import DataRequest, data_format
from assay.subject import Data

_SETS = ("breast_cancer", "diabetes", "digits", "iris", "wine")


@data_format("demo", lambda request: request.spec in ("demo", "demo:classification", "demo:regression"))
def read_demo(request: DataRequest) -> Data:
    """The demo network's test split; limit takes some of it."""
    data = demo_data("regression" if request.spec.endswith(":regression") else "classification")
    rows = chosen_rows(len(data), request.limit, data.targets)
    assert data.targets is not None
    return Data(data.inputs[rows], data.targets[rows], data.name, data.class_names, data.bounds)


@data_format("sklearn:NAME", lambda request: request.spec.startswith("sklearn:"))
def read_sklearn(request: DataRequest) -> Data:
    """A data set in scikit-learn's wheel: digits as (N, 1, 8, 8) in [0, 1], the others as their raw features (N, F).

    Returns:
        The whole set, or the part that limit asks for.

    Raises:
        UsageError: for other names, also those that scikit-learn would download.
    """
    from sklearn import datasets

    name = request.spec.partition(":")[2]
    if name not in _SETS:
        raise UsageError(
            f"There is no built-in data set {name!r}.", where=request.spec, advice=f"Known: {', '.join(_SETS)}."
        )
    bunch = getattr(datasets, f"load_{name}")(**({"scaled": False} if name == "diabetes" else {}))
    inputs = bunch.images[:, None].astype("float32") / 16.0 if name == "digits" else bunch.data.astype("float32")
    data = data_from_arrays(inputs, bunch.target, request.spec, limit=request.limit)
    if name == "diabetes":
        return data
    bounds = (0.0, 1.0) if name == "digits" else None
    names = tuple(str(each) for each in bunch.target_names)
    return Data(data.inputs, data.targets.to(torch.int64), data.name, names, bounds)  # type: ignore[union-attr]
