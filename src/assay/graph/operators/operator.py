"""What a canonical operator is: how to evaluate it, what is linear in it, which ATen calls it stands for, samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Sample(NamedTuple):
    """Inputs (batch first where batched) and attributes one operator can be tried on.

    Example:
        >>> Sample((torch.ones(2, 3),), {"dim": 1}).attributes
        {'dim': 1}
    """

    inputs: tuple[Tensor | None, ...]
    attributes: dict[str, Any] = {}  # noqa: RUF012


class Inexpressible(Exception):
    """Raised by a conversion for a variant of an ATen call that its operator cannot say; the call then stays opaque."""


class Converted(NamedTuple):
    """What an ATen call becomes: tensor arguments by position and attributes.

    Example:
        >>> Converted(("x",), {"dim": 1}).inputs
        ('x',)
    """

    inputs: tuple[Any, ...]
    attributes: dict[str, Any]


@dataclass(frozen=True)
class Aten:
    """One ATen overload that an operator stands for.

    Attributes:
        target: such as ``conv2d.default``.
        inputs: names of the arguments that are tensors (or numbers that become constant tensors).
        attributes: names of the arguments kept as attributes.
        fixed: attributes that this overload implies.
        convert: for calls that need more than picking arguments: a function from the bound arguments and the output
            shape.
        namespace: of the overload; for a custom operator, that of `torch.library.custom_op`.

    Example:
        >>> Aten("relu.default").target
        'relu.default'
    """

    target: str
    inputs: tuple[str, ...] = ("self",)
    attributes: tuple[str, ...] = ()
    fixed: dict[str, Any] = field(default_factory=dict)
    convert: Callable[[dict[str, Any], tuple[Any, ...]], Converted] | None = None
    namespace: str = "aten"

    @property
    def name(self) -> str:
        """The overload's full name, such as ``aten.conv2d.default``."""
        return f"{self.namespace}.{self.target}"

    def bind(self, arguments: dict[str, Any], shape: tuple[Any, ...]) -> Converted:
        """Canonical inputs and attributes of one call."""
        if self.convert is not None:
            return self.convert(arguments, shape)
        picked = {name: _frozen(arguments[name]) for name in self.attributes if name in arguments}
        return Converted(tuple(arguments.get(name) for name in self.inputs), picked | self.fixed)


@dataclass(frozen=True)
class Operator:
    """One row of the operator table.

    Attributes:
        name: canonical name.
        family: heading in the coverage table.
        evaluate: `evaluate(*inputs, **attributes) -> Tensor`.
        linear_in: sets of input positions in which it is jointly affine while the others are held fixed; "all" for
            every input.
        offsets: inputs that only shift the result; the linear part leaves them out.
        linear_attributes: attributes that the linear part needs instead, such as a padding value of 0.
        squared: the map with every coefficient squared, which carries variances of independent inputs: called like
            `evaluate`, with variances in the varying inputs. None: no closed form.
        transposed: the transpose of the linear part in the first input alone, the others held fixed: called with
            cotangents (k, ...), the shape of that input, the other inputs and the attributes; may give None for what it
            cannot do. Without it, automatic differentiation evaluates the operator once more.
        square_fixed: the other inputs are coefficients and reach `squared` already squared (weights of a layer, a
            factor).
        elementwise: y_i depends on x_i of the first input alone.
        kinks: where an elementwise function is not smooth (slope or curvature jumps), in ascending order, or a function
            from attributes to these places; quadrature cuts the line there. Empty for smooth functions, and for `clip`,
            whose kinks are its bounds.
        piecewise_linear: an elementwise function is linear between its kinks.
        aten: ATen overloads it stands for.
        samples: inputs to try it on, from a seeded generator.

    Example:
        >>> from assay.graph import OPERATORS
        >>> OPERATORS["relu"].elementwise, OPERATORS["relu"].family
        (True, 'activation')
    """

    name: str
    family: str
    evaluate: Callable[..., Tensor]
    samples: Callable[[torch.Generator], Sequence[Sample]]
    linear_in: tuple[frozenset[int], ...] | str = ()
    offsets: frozenset[int] = frozenset()
    linear_attributes: dict[str, Any] = field(default_factory=dict)
    squared: Callable[..., Tensor] | None = None
    square_fixed: bool = False
    transposed: Callable[..., Tensor | None] | None = None
    elementwise: bool = False
    kinks: tuple[float, ...] | Callable[[Mapping[str, Any]], tuple[float, ...]] = ()
    piecewise_linear: bool = False
    aten: tuple[Aten, ...] = ()

    def affine_in(self, positions: frozenset[int]) -> bool:
        """True when the operator is jointly affine in the inputs at these positions, the others held fixed."""
        return self.linear_in == "all" or any(
            positions <= group for group in self.linear_in if isinstance(group, frozenset)
        )

    def kinks_of(self, attributes: Mapping[str, Any]) -> tuple[float, ...]:
        """Where the function is not smooth, with these attributes."""
        return self.kinks(attributes) if callable(self.kinks) else self.kinks

    def linear_part(
        self, inputs: Sequence[Tensor | None], varying: frozenset[int], attributes: dict[str, Any]
    ) -> Tensor:
        """The linear part in the inputs at `varying`: inputs that only shift the result are zeroed or left out."""
        used = self._without_offsets(inputs, varying)
        return self.evaluate(*used, **(attributes | self.linear_attributes))

    def squared_part(
        self, inputs: Sequence[Tensor | None], varying: frozenset[int], attributes: dict[str, Any]
    ) -> Tensor:
        """Variances of the result when the varying inputs hold variances of independent elements. Needs `squared`."""
        assert self.squared is not None
        used = self._without_offsets(inputs, varying)
        if self.square_fixed:
            used = [v if v is None or i in varying else v * v for i, v in enumerate(used)]
        return self.squared(*used, **(attributes | self.linear_attributes))

    def _without_offsets(self, inputs: Sequence[Tensor | None], varying: frozenset[int]) -> list[Tensor | None]:
        used: list[Tensor | None] = []
        for position, value in enumerate(inputs):
            if position in varying or value is None:
                used.append(value)
            elif position in self.offsets:
                used.append(None)
            elif self.linear_in == "all" or any(varying | {position} <= group for group in self.linear_in):  # type: ignore[operator]
                used.append(torch.zeros_like(value))
            else:
                used.append(value)
        return used


def randn(generator: torch.Generator, *shape: int) -> Tensor:
    """Standard normal float64 tensor for samples."""
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def _frozen(value: Any) -> Any:
    return tuple(_frozen(item) for item in value) if isinstance(value, (list, tuple)) else value
