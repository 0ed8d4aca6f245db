"""Settings as scikit-learn reads and sets them, without importing it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from inspect import signature
from typing import Any, Self

from assay.errors import UsageError


class Refused(UsageError, ValueError):
    """Samples or settings that cannot be used, as scikit-learn's tools expect to be told: a `ValueError`."""


class Parameters:
    """Mixin: the arguments of the constructor as parameters, so that `sklearn.base.clone` and searches work.

    A subclass keeps every argument in an attribute of its name, or overrides `_given`.

    Example:
        >>> class Ruler(Parameters):
        ...     def __init__(self, length=30, *, unit="cm"):
        ...         self.length, self.unit = length, unit
        >>> Ruler(50), Ruler().set_params(unit="inch").get_params()
        (Ruler(length=50), {'length': 30, 'unit': 'inch'})
    """

    _kind: str | None = None  # of scikit-learn's kinds of estimators

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The arguments this was made with.

        Args:
            deep: also those of arguments that have parameters themselves, as ``argument__parameter``.

        Returns:
            By name.
        """
        given = dict(self._given())
        if deep:
            for name, value in list(given.items()):
                if hasattr(value, "get_params") and not isinstance(value, type):
                    given |= {f"{name}__{inner}": found for inner, found in value.get_params().items()}
        return given

    def set_params(self, **parameters: Any) -> Self:
        """Change arguments; what was learned by `fit` is forgotten.

        Args:
            **parameters: by name, or as ``argument__parameter``.

        Returns:
            Itself.

        Raises:
            UsageError: for a name that is none, or a value that the constructor refuses.
        """
        given, inner = dict(self._given()), {}
        for name, value in parameters.items():
            outer, _, rest = name.partition("__")
            if outer not in given or (rest and not hasattr(parameters.get(outer, given[outer]), "set_params")):
                raise UsageError(
                    f"{type(self).__name__} has no parameter {name!r}.",
                    where="set_params",
                    advice=f"There are {', '.join(self.get_params())}.",
                )
            if rest:
                inner.setdefault(outer, {})[rest] = value
            else:
                given[outer] = value
        for outer, values in inner.items():
            given[outer].set_params(**values)
        type(self).__init__(self, **given)
        return self

    def copied(self) -> Self:
        """The same arguments, nothing learned. What has no parameters of its own, such as a model, is shared."""
        given = {name: each.copied() if isinstance(each, Parameters) else each for name, each in self._given().items()}
        return type(self)(**given)

    def __sklearn_clone__(self) -> Self:
        return self.copied()

    def __sklearn_tags__(self) -> Any:
        from sklearn.utils import InputTags, Tags, TargetTags

        inputs = InputTags(two_d_array=True, three_d_array=True, allow_nan=False)
        return Tags(estimator_type=self._kind, target_tags=TargetTags(required=False), input_tags=inputs)

    def __repr__(self) -> str:
        """The code that makes it, defaults left out."""
        defaults = signature(type(self)).parameters
        said = [
            f"{name}={value!r}" for name, value in self._given().items() if not _same(value, defaults[name].default)
        ]
        return f"{type(self).__name__}({', '.join(said)})"

    def _given(self) -> Mapping[str, Any]:
        return {name: getattr(self, name) for name in signature(type(self)).parameters}


def _same(value: Any, default: Any) -> bool:
    return value is default or (isinstance(value, (int, float, str, tuple)) and value == default)


@cache
def _not_fitted() -> type[UsageError]:
    from sklearn.exceptions import NotFittedError

    class NotFitted(UsageError, NotFittedError):
        """Something was asked that only `fit` can tell."""

    return NotFitted


def not_fitted(name: str, advice: str) -> UsageError:
    """The error of a detector that has not been fitted: a `UsageError` and scikit-learn's `NotFittedError` at once.

    Args:
        name: of the class.
        advice: what to call.

    Returns:
        The error, to be raised.
    """
    return _not_fitted()(f"{name} has not seen clean samples yet.", where=name, advice=advice)
