"""Laws of number formats: rounding is monotone, odd and idempotent, and its error models hold."""

from __future__ import annotations

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from assay.sensitivity.roundoff import FORMATS, Accumulation, FloatFormat, Format, as_format, calibrated, precision

FLOATS = [
    *(FORMATS[name] for name in ("fp32", "tf32", "fp16", "bf16", "e4m3", "e5m2", "e2m1")),
    *(precision(t) for t in (1, 2, 8, 30, 53)),
    FloatFormat("flush", 4, 4, subnormals=False),
    FloatFormat("wide", 7, 11),
]
ODD = [*FLOATS, *(as_format(f"int{b}{place}") for b in (2, 3, 8, 16) for place in ("", "_group3"))]
ANY = [*ODD, *(as_format(name) for name in ("int2_affine", "int8_affine", "q3.5", "q1.3"))]
STATELESS = [*FLOATS, as_format("q3.5")]

numbers = st.floats(allow_nan=False, allow_infinity=False, width=64) | st.floats(-10, 10) | st.floats(-1e-6, 1e-6)
values = st.lists(numbers, min_size=1, max_size=12).map(lambda v: torch.tensor(v, dtype=torch.float64))
moderate = st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=12)
few = settings(max_examples=80, deadline=None)


@few
@given(values, st.sampled_from(STATELESS))
def test_rounding_is_idempotent_and_leaves_no_error(x: Tensor, target: Format) -> None:
    once = target.round(x)
    assert torch.equal(target.round(once), once)
    finite = once[torch.isfinite(once)]
    assert not target.error_bound(finite).any()
    assert not target.error_variance(finite).any()


@few
@given(moderate.map(torch.tensor), st.sampled_from(ODD[len(FLOATS) :]))
def test_formats_with_scales_are_idempotent_up_to_the_carrier(x: Tensor, target: Format) -> None:
    once = target.round(x.double())
    twice = target.round(once)
    assert (twice - once).abs().max() <= 1e-9 * x.double().abs().max() + 1e-300


@few
@given(values, st.sampled_from(ANY))
def test_rounding_is_monotone(x: Tensor, target: Format) -> None:
    x = x.clamp(-1e300, 1e300).sort().values
    if getattr(target, "granularity", "tensor") == "group":
        x = x[:3]
    y = target.round(x)
    assert (y[1:] >= y[:-1]).all()


@few
@given(values, st.sampled_from(ODD))
def test_rounding_is_odd(x: Tensor, target: Format) -> None:
    assert torch.equal(target.round(-x), -target.round(x))


@few
@given(values, st.sampled_from(ANY), st.sampled_from([torch.float64, torch.float32, torch.bfloat16]))
def test_error_bound_holds(x: Tensor, target: Format, dtype: torch.dtype) -> None:
    x = x.clamp(-1e37, 1e37).to(dtype)
    error = (target.round(x).double() - x.double()).abs()
    bound = target.error_bound(x).double()
    assert (error <= bound).all()
    assert ((error == 0) == (bound == 0)).all()


@few
@given(values, st.sampled_from(FLOATS))
def test_error_is_at_most_u_relative_in_range(x: Tensor, target: FloatFormat) -> None:
    least = -1000 if target.least_exponent is None else target.least_exponent
    x = x[(x.abs() >= 2.0**least) & (x.abs() <= min(target.largest, 1e300))]
    assert ((target.round(x) - x).abs() <= target.unit_roundoff * x.abs()).all()
    assert (target.error_bound(x) <= target.unit_roundoff * x.abs()).all()


@few
@given(values, st.integers(1, 53), st.integers(-200, 200))
def test_unlimited_range_commutes_with_powers_of_two(x: Tensor, t: int, shift: int) -> None:
    x = torch.where((x.abs() > 1e-200) & (x.abs() < 1e200), x, 1.0)
    assert torch.equal(precision(t).round(x * 2.0**shift), precision(t).round(x) * 2.0**shift)


@few
@given(moderate.map(torch.tensor), st.sampled_from(["int3", "int8", "int5_affine"]), st.floats(50, 100))
def test_calibrated_formats_do_not_depend_on_what_they_round(x: Tensor, name: str, percentile: float) -> None:
    target = calibrated(as_format(name), x, percentile=percentile)  # pyright: ignore[reportArgumentType]
    assert torch.equal(target.round(x), torch.stack([target.round(v) for v in x]))


@few
@given(st.integers(1, 10**7), st.integers(2, 24), st.floats(1e-12, 0.5), st.sampled_from(["sequential", "pairwise"]))
def test_accumulation_constants_are_ordered(n: int, t: int, failure: float, kind: str) -> None:
    how = Accumulation(kind, precision(t))  # pyright: ignore[reportArgumentType]
    assert 0 < how.probable(n, failure) <= how.constant(n) <= Accumulation("sequential", precision(t)).constant(n)
    assert how.constant(n) <= how.constant(n + 1)
    assert not math.isnan(how.constant(n))
