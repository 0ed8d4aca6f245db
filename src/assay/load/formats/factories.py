"""Data from the user's own code: a torch Dataset or DataLoader, a pair of arrays, or `Data`."""

from __future__ import annotations

from typing import Any

import numpy
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from assay.errors import SubjectError
from assay.load.choose import chosen_rows
from assay.load.convert import data_from_arrays
from assay.load.factory import call_factory, is_factory
from assay.load.isolation import isolated
from assay.load.limits import require_memory
from assay.load.pictures import prepare_picture
from assay.load.registry import DataRequest, data_format
from assay.subject import Data


@data_format("package.module:factory or FILE.py:factory", lambda request: is_factory(request.spec))
def read_factory(request: DataRequest) -> Data:
    """What a trusted factory returns, as `Data`.

    Returns:
        The data set's items stacked, or the arrays as they are.

    Raises:
        TrustRequired: before anything is imported, when trust was not given.
        SubjectError: when it raises, or returns something else than data.
    """
    made, bounds = call_factory(request.spec, request.trust), request.preprocessing.bounds
    if isinstance(made, Data):
        return made.take(request.limit)
    if isinstance(made, (Tensor, numpy.ndarray)):
        return data_from_arrays(made, None, request.spec, limit=request.limit, bounds=bounds)
    if isinstance(made, (tuple, list)) and len(made) == 2:
        return data_from_arrays(made[0], made[1], request.spec, limit=request.limit, bounds=bounds)
    if not isinstance(made, (DataLoader, Dataset)) and not (hasattr(made, "__len__") and hasattr(made, "__getitem__")):
        raise SubjectError(
            f"The factory returned {type(made).__name__}, not data.",
            where=request.spec,
            advice="Return a torch Dataset, a pair (inputs, targets) or assay.Data.",
        )
    try:
        with isolated():
            inputs, targets = (
                _from_loader(made, request) if isinstance(made, DataLoader) else _from_dataset(made, request)
            )
    except SubjectError:
        raise
    except Exception as error:
        raise SubjectError(
            f"Reading the data set raised {type(error).__name__}: {str(error)[:300]}",
            where=request.spec,
            advice="Try one item, dataset[0], in a Python session.",
        ) from error
    return data_from_arrays(inputs, targets, request.spec, bounds=bounds)


def _from_dataset(dataset: Any, request: DataRequest) -> tuple[Any, Any]:
    rows = chosen_rows(len(dataset), request.limit).tolist()
    inputs, targets = [], []
    for row in rows:
        item = dataset[row]
        x, y = (item[0], item[1]) if isinstance(item, (tuple, list)) else (item, None)
        inputs.append(_as_tensor(x, request, f"{request.spec}, item {row}"))
        targets.append(y)
        if len(inputs) == 1:
            require_memory(inputs[0].numel() * inputs[0].element_size() * len(rows), request.spec)
    return _stack(inputs, request), _collect(targets)


def _from_loader(loader: DataLoader[Any], request: DataRequest) -> tuple[Any, Any]:
    inputs, targets, count = [], [], 0
    for batch in loader:
        x, y = (batch[0], batch[1]) if isinstance(batch, (tuple, list)) else (batch, None)
        inputs.append(torch.as_tensor(x))
        targets.append(y)
        count += len(x)
        if request.limit is not None and count >= request.limit:
            break
    wanted = slice(0, request.limit)
    joined = None if not targets or targets[0] is None else torch.cat([torch.as_tensor(y) for y in targets])[wanted]
    return torch.cat(inputs)[wanted], joined


def _as_tensor(x: Any, request: DataRequest, where: str) -> Tensor:
    if hasattr(x, "convert") and hasattr(x, "getbands"):  # a Pillow image
        return prepare_picture(x, request.preprocessing, request.mode, where)
    return torch.as_tensor(x)


def _stack(inputs: list[Tensor], request: DataRequest) -> Tensor:
    shapes = {tuple(x.shape) for x in inputs}
    if len(shapes) != 1:
        found = "no items" if not shapes else "items of different shapes: " + ", ".join(map(str, sorted(shapes)[:3]))
        raise SubjectError(f"The data set has {found}.", where=request.spec, advice="Resize and crop to one shape.")
    return torch.stack(inputs)


def _collect(targets: list[Any]) -> Any:
    if any(target is None for target in targets):
        return None
    if isinstance(targets[0], str):
        return targets
    return torch.stack([torch.as_tensor(target) for target in targets])
