"""Measure how a trained network responds when its input, its parameters or its number format change a little.

Public names only, imported when first used: `import assay` costs nothing and needs no torch.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

from assay._version import __version__

if TYPE_CHECKING:
    from assay import covariance, gaussian, graph, interpret, load, moments, render, results, sensitivity, store
    from assay.audit import audit
    from assay.config import AuditConfig
    from assay.errors import AssayError, CaptureError, MissingExtra, NumericalError, StoreError, SubjectError
    from assay.errors import TrustRequired, UnsupportedOperator, UsageError
    from assay.grade import Grade
    from assay.load import load_data, load_subject
    from assay.preprocess import Preprocessing
    from assay.results import Audit, Finding, Result
    from assay.store import open_run
    from assay.subject import Data, Subject

_NAMES = {
    "assay.audit": "audit",
    "assay.config": "AuditConfig",
    "assay.errors": "AssayError CaptureError MissingExtra NumericalError StoreError SubjectError TrustRequired "
    "UnsupportedOperator UsageError",
    "assay.grade": "Grade",
    "assay.load": "load_data load_subject",
    "assay.preprocess": "Preprocessing",
    "assay.results": "Audit Finding Result",
    "assay.store": "open_run",
    "assay.subject": "Data Subject",
}
_HOME = {name: module for module, names in _NAMES.items() for name in names.split()}
_PARTS = "covariance gaussian graph interpret load moments render results sensitivity store".split()

__all__ = ["__version__", *_HOME, *_PARTS]  # pyright: ignore[reportUnsupportedDunderAll]


class _Package(ModuleType):
    """Keeps `assay.audit` the function: importing the module of that name would put the module in its place."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (isinstance(value, ModuleType) and name in _HOME):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'assay' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name) if name in _HOME else import_module(f"assay.{name}")
