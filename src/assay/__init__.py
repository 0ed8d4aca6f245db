"""Measure how a trained network responds when its input, its parameters or its number format change a little.

Public names only, imported when first used: `import assay` costs nothing and needs no torch.
"""

# ruff: noqa: F401, I001  (the imports below are for type checkers; `__all__` is built from the table)
import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

from assay._version import __version__

if TYPE_CHECKING:
    from assay import attacks, boundary, certified, comparing, conformance, covariance, errors, filtering, gaussian
    from assay import graph, interpret, load, moments, render, requiring, results, sensitivity, smoothness, store, sweep
    from assay.audit import audit
    from assay.config import AuditConfig
    from assay.errors import AssayError, CaptureError, StoreError, SubjectError, TrustRequired, UsageError
    from assay.grade import Grade
    from assay.load import load_data, load_subject
    from assay.preprocess import Preprocessing
    from assay.results import Audit, Finding, Result
    from assay.store import open_run
    from assay.subject import Data, Subject

_NAMES = {
    "audit": ("audit",),
    "config": ("AuditConfig",),
    "errors": ("AssayError", "CaptureError", "StoreError", "SubjectError", "TrustRequired", "UsageError"),
    "grade": ("Grade",),
    "load": ("load_data", "load_subject"),
    "preprocess": ("Preprocessing",),
    "results": ("Audit", "Finding", "Result"),
    "store": ("open_run",),
    "subject": ("Data", "Subject"),
}
_HOME = {name: f"assay.{module}" for module, names in _NAMES.items() for name in names}
_PARTS = "attacks boundary certified comparing conformance covariance filtering gaussian graph interpret moments"
_PARTS += " render requiring sensitivity smoothness sweep"

__all__ = ["__version__", *_HOME, *(part for part in (*_PARTS.split(), *_NAMES) if part not in _HOME)]  # pyright: ignore[reportUnsupportedDunderAll]


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
