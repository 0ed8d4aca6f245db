"""Data from specifications: find the format in the table, read, check."""

from __future__ import annotations

import os
from pathlib import Path

from assay import checks
from assay.errors import SubjectError, UsageError
from assay.load.registry import DataRequest, Mode, data_formats
from assay.load.trust import Trust
from assay.preprocess import Preprocessing
from assay.subject import Data


def load_data(
    spec: str | Path,
    preprocessing: Preprocessing | None = None,
    *,
    trust: bool | Trust = False,
    limit: int | None = None,
    inputs_key: str | None = None,
    targets_key: str | None = None,
    target_column: str | None = None,
    mode: Mode = "RGB",
) -> Data:
    """Load data from a specification.

    Args:
        spec: `demo`, `sklearn:NAME`, a folder of pictures, `FILE.npz|npy|parquet|csv`, or a factory.
        preprocessing: resize and crop are applied to pictures; bounds say what their pixel values are mapped to. Mean
            and standard deviation are *not* applied: they belong to the model.
        trust: whether a factory may be executed.
        limit: number of samples, chosen evenly over the data and over its classes, always the same ones.
        inputs_key: name of the inputs in an `.npz`.
        targets_key: name of the targets in an `.npz`.
        target_column: name of the target in a table.
        mode: colour of pictures, "RGB" or "L".

    Returns:
        Inputs in the units of the user's data, and targets where there are any.

    Raises:
        TrustRequired: when a factory was asked for without trust.
        UsageError: when the specification has no known form.
        SubjectError: when the data are missing, damaged, empty, ragged, not numeric, or hold NaN.

    Example:
        >>> data = load_data("sklearn:wine", limit=30)
        >>> data.inputs.shape, data.class_names
        (torch.Size([30, 13]), ('class_0', 'class_1', 'class_2'))
    """
    preprocessing = preprocessing or Preprocessing()
    request = DataRequest(
        str(spec), preprocessing, Trust.of(trust), limit, inputs_key, targets_key, target_column, mode
    )
    formats = data_formats()
    chosen = next((each for each in formats if each.accepts(request)), None)
    if chosen is None:
        text = str(spec)
        if os.sep in text or (Path(text).suffix and ":" not in text):
            known = "This kind of file is not supported." if Path(text).exists() else "There is no such file or folder."
            raise SubjectError(known, where=text, advice=f"Data can be: {'; '.join(each.form for each in formats)}.")
        raise UsageError(
            "This is not a data specification, and no such folder exists.",
            where=text,
            advice=f"Data can be: {'; '.join(each.form for each in formats)}.",
        )
    data = chosen.read(request)
    return checks.checked_data(data, Preprocessing(bounds=preprocessing.bounds), data.inputs.dtype)
