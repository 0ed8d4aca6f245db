"""Number formats against torch's casts, exact rational arithmetic and torch's fake quantisation."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from tests.support.inputs import numbers
from torch import Tensor

from assay.errors import NumericalError, UsageError
from assay.sensitivity.roundoff import (
    FORMATS,
    Accumulation,
    FixedPoint,
    FloatFormat,
    IntegerFormat,
    as_format,
    calibrated,
    exponent_bits,
    gamma,
    gamma_probabilistic,
    precision,
)

CASTS = {
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
    "e4m3": torch.float8_e4m3fn,
    "e5m2": torch.float8_e5m2,
}


def every_value(dtype: torch.dtype) -> Tensor:
    """All finite numbers of a format, ascending, in double precision."""
    if dtype.itemsize == 1:
        patterns = torch.arange(256, dtype=torch.uint8).view(dtype)
    else:
        patterns = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)
    values = patterns.double()
    return values[torch.isfinite(values)].unique()


def same_bits(found: Tensor, expected: Tensor) -> None:
    assert torch.equal(found.double().view(torch.int64), expected.double().view(torch.int64))


@pytest.mark.parametrize("name", CASTS)
def test_casts_agree_bit_for_bit(name: str) -> None:
    values = every_value(CASTS[name])
    middles = (values[1:] + values[:-1]) / 2
    around = torch.cat([values, middles, -torch.zeros(1)]).float()
    around = torch.cat([around, torch.nextafter(around, around + 1), torch.nextafter(around, around - 1)])
    spread = torch.randn(20000, generator=torch.Generator().manual_seed(0)) * torch.logspace(-12, 4, 20000)
    for x in (around, spread):
        x = x[x.abs() < values[-1] + (values[-1] - values[-2]) / 2]  # torch's own treatment of overflow has changed
        same_bits(FORMATS[name].round(x), x.to(CASTS[name]))


@pytest.mark.parametrize("name", CASTS)
def test_every_number_of_a_format_is_left_alone(name: str) -> None:
    values = every_value(CASTS[name])
    target = FORMATS[name]
    same_bits(target.round(values), values)
    assert not target.error_bound(values).any()
    assert not target.error_variance(values).any()
    assert float(values[-1]) == target.largest
    assert float(values[values > 0][0]) == target.smallest


def nearest(x: float, target: FloatFormat) -> float:
    """Rounding to nearest, ties to even, in rational arithmetic."""
    exponent = math.frexp(x)[1] - 1
    if target.least_exponent is not None:
        exponent = max(exponent, target.least_exponent)
    quantum = Fraction(2) ** (exponent + 1 - target.significand)
    value = round(Fraction(x) / quantum) * quantum  # Python rounds fractions to even
    if target.largest < math.inf and abs(value) > Fraction(target.largest):
        return math.copysign(target.largest if target.overflow == "saturate" else math.inf, x)
    return math.copysign(float(value), x)


@pytest.mark.parametrize("target", [*(FORMATS[n] for n in ("tf32", "fp32", *CASTS, "e2m1"))], ids=lambda f: f.name)
def test_doubles_are_rounded_once(target: FloatFormat) -> None:
    unit = 2.0**-target.significand
    close = [(1 + unit * k) * (1 + s * 2.0**-45) for k in (1, 3, 5) for s in (-1, 0, 1)]
    close += [target.smallest * k * (1 + s * 2.0**-45) for k in (0.5, 1.5, 2.5) for s in (-1, 0, 1)]
    close += (numbers(300) * torch.logspace(-9, 3, 300)).tolist()
    x = torch.tensor([*close, *(-v for v in close), 1e30, -1e300], dtype=torch.float64)
    same_bits(target.round(x), torch.tensor([nearest(v, target) for v in x.tolist()], dtype=torch.float64))


def test_twice_rounded_casts_are_wrong_where_ours_are_right() -> None:
    x = torch.tensor([1 + 2.0**-11 + 2.0**-40], dtype=torch.float64)
    assert FORMATS["fp16"].round(x).item() == 1 + 2.0**-10
    assert x.float().half().item() == 1.0


@pytest.mark.parametrize("t", [2, 5, 11, 24, 37, 53])
def test_unlimited_range_reaches_the_ends_of_doubles(t: int) -> None:
    x = torch.tensor([5e-324, 1.1e-310, -3.3e-309, 2.3e-308, 0.0, -0.0, 1e300], dtype=torch.float64)
    target = FloatFormat("any", t)

    def truth(v: float) -> float:
        return nearest(v, target) if v else v

    same_bits(target.round(x), torch.tensor([truth(v) for v in x.tolist()], dtype=torch.float64))


@pytest.mark.parametrize(
    ("name", "value"), [("t8", 3.140625), ("bf16", 3.140625), ("t11", 3.140625), ("fp16", 3.140625)]
)
def test_pi(name: str, value: float) -> None:
    assert as_format(name).round(torch.tensor(math.pi, dtype=torch.float64)).item() == value
    assert as_format("e4m3").round(torch.tensor(math.pi)).item() == 3.25


def test_unit_roundoffs() -> None:
    expected = {"fp32": 2**-24, "tf32": 2**-11, "fp16": 4.8828125e-4, "bf16": 3.90625e-3, "e4m3": 0.0625, "e5m2": 0.125}
    assert {name: FORMATS[name].unit_roundoff for name in expected} == expected
    assert FORMATS["e2m1"].unit_roundoff == 0.25
    assert FORMATS["int8"].unit_roundoff is None
    assert [FORMATS[n].bits for n in ("fp32", "tf32", "fp16", "bf16", "e4m3", "e5m2", "e2m1", "int5")] == [
        32, 32, 16, 16, 8, 8, 4, 5,
    ]  # fmt: skip


def test_four_bit_floats_have_their_eight_magnitudes() -> None:
    found = FORMATS["e2m1"].round(torch.linspace(-10, 10, 4001, dtype=torch.float64)).unique()
    assert found.tolist() == [-6, -4, -3, -2, -1.5, -1, -0.5, 0, 0.5, 1, 1.5, 2, 3, 4, 6]


def test_beyond_the_range() -> None:
    x = torch.tensor([1e6, -1e6, math.inf, -math.inf, math.nan])
    assert FORMATS["e4m3"].round(x)[:4].tolist() == [448, -448, 448, -448]
    assert FORMATS["e5m2"].round(x)[:4].tolist() == [math.inf, -math.inf, math.inf, -math.inf]
    assert all(FORMATS[n].round(x)[4].isnan() for n in ("e4m3", "e5m2", "fp16"))
    assert FORMATS["fp16"].round(torch.tensor([65504.0, 65519.0, 65520.0])).tolist() == [65504, 65504, math.inf]
    strict = FloatFormat("e4m3", 4, 4, maximum=448.0, overflow="nan")
    assert strict.round(x)[:2].isnan().all()
    assert strict.round(torch.tensor([464.0])).item() == 448  # a tie, and 480 is odd
    assert FORMATS["e4m3"].error_bound(x)[0] == 1e6 - 448
    assert FORMATS["e5m2"].error_bound(x)[0] == math.inf
    flushing = FloatFormat("flush", 11, 5, subnormals=False)
    assert flushing.round(torch.tensor([2.0**-15 * 0.9, 2.0**-15 * 1.1, 2.0**-14])).tolist() == [0, 2**-14, 2**-14]


def test_one_significand_bit_keeps_nan() -> None:
    found = precision(1).round(torch.tensor([math.nan, 2.9, -5.0], dtype=torch.float64))
    assert found[0].isnan()
    assert found[1:].tolist() == [2, -4]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_results_keep_shape_and_type(dtype: torch.dtype) -> None:
    x = numbers(3, 4, 2).to(dtype).transpose(0, 2)
    for name in ("e4m3", "t3", "int4_channel", "int5_group3", "int8_affine", "q3.2"):
        target = as_format(name)
        for result in (target.round(x), target.error_bound(x), target.error_variance(x)):
            assert (result.shape, result.dtype) == (x.shape, dtype)


@pytest.mark.parametrize("bits", range(2, 17))
def test_symmetric_integers_are_fake_quantisation(bits: int) -> None:
    top = 2 ** (bits - 1) - 1
    x = (numbers(40, 30).float() * top).clamp(-top, top)
    x[:, ::5] = x[:, ::5].round() - 0.5  # ties
    x = x.clamp(-top, top)
    x[:, 1] = top  # scales are powers of two, so that torch divides as exactly as we do
    rows = x * 2.0 ** torch.arange(40).remainder(7).unsqueeze(1)
    expected = torch.fake_quantize_per_tensor_affine(rows, 64.0, 0, -top, top)
    assert torch.equal(IntegerFormat(bits).round(rows), expected)
    scales = rows.abs().amax(1) / top
    by_row = torch.fake_quantize_per_channel_affine(rows, scales, torch.zeros(40, dtype=torch.int32), 0, -top, top)
    assert torch.equal(IntegerFormat(bits, "channel").round(rows), by_row)
    assert torch.equal(IntegerFormat(bits, "channel", axis=1).round(rows.T.contiguous()), by_row.T)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_affine_integers_are_fake_quantisation(bits: int) -> None:
    x = numbers(40, 30).float().relu() + 0.1 * numbers(40, 30, seed=1).float()
    scale = float(x.max() - x.min()) / (2**bits - 1)
    zero = round(-float(x.min()) / scale)
    expected = torch.fake_quantize_per_tensor_affine(x, scale, zero, 0, 2**bits - 1)
    torch.testing.assert_close(IntegerFormat(bits, symmetric=False).round(x), expected, rtol=2e-6, atol=1e-7)
    positive = IntegerFormat(bits, symmetric=False).round(x.abs() + 1)
    assert (positive - x.abs() - 1).abs().max() <= (x.abs().max() + 1) / (2**bits - 1) / 2 * (1 + 1e-6)


def test_integers_round_half_to_even_and_keep_zero() -> None:
    x = torch.tensor([7.0, 0.5, 1.5, 2.5, -0.5, -1.5, 0.0])
    assert IntegerFormat(4).round(x).tolist() == [7, 0, 2, 2, 0, -2, 0]
    assert IntegerFormat(4).round(torch.zeros(3)).tolist() == [0, 0, 0]
    affine = IntegerFormat(8, symmetric=False)
    assert affine.round(torch.tensor([-1.23, 0.0, 4.0]))[1] == 0


def test_groups_have_scales_of_their_own() -> None:
    x = numbers(3, 2, 5)
    found = IntegerFormat(4, "group", group=4).round(x)
    for row in range(3):
        flat = x[row].flatten()
        expected = torch.cat([IntegerFormat(4).round(flat[i : i + 4]) for i in range(0, 10, 4)])
        assert torch.equal(found[row].flatten(), expected)


def test_samples_do_not_see_each_other() -> None:
    x = numbers(4, 3, 2)
    target = IntegerFormat(6, "sample", symmetric=False)
    assert torch.equal(target.round(x), torch.cat([IntegerFormat(6, symmetric=False).round(row[None]) for row in x]))


def test_calibrated_scales() -> None:
    x = numbers(1000, 3)
    assert torch.equal(calibrated(IntegerFormat(8), x).round(x), IntegerFormat(8).round(x))
    affine = calibrated(IntegerFormat(8, symmetric=False), x + 2)
    assert torch.equal(affine.round(x + 2), IntegerFormat(8, symmetric=False).round(x + 2))
    by_channel = calibrated(IntegerFormat(8, "channel", axis=1), x)
    assert torch.equal(by_channel.round(x), IntegerFormat(8, "channel", axis=1).round(x))
    clipped = calibrated(IntegerFormat(8), x, percentile=90.0)
    top = clipped.round(x).abs().max()
    assert 0.89 < float((x.abs() <= top + 1e-9).double().mean()) < 0.91
    beyond = torch.tensor([10.0], dtype=torch.float64)
    assert clipped.error_bound(beyond) == 10 - top
    assert clipped.error_variance(beyond) == (10 - top) ** 2


def test_fixed_point_saturates() -> None:
    target = FixedPoint(3, 2)
    assert (target.bits, target.name) == (5, "q3.2")
    found = target.round(torch.tensor([0.125, 0.375, -0.125, 5.0, -5.0, 1.3]))
    assert found.tolist() == [0, 0.5, 0, 3.75, -4, 1.25]
    assert target.error_bound(torch.tensor([1.3, 5.0, 1.25])).tolist() == [0.125, 1.25, 0]


def test_error_models() -> None:
    x = torch.tensor([1.3, 2.0, 0.0, 100.3], dtype=torch.float64)
    assert precision(8).error_bound(x).tolist() == [2**-8, 0, 0, 2**-2]
    assert precision(8).error_variance(x).tolist() == [2**-14 / 12, 0, 0, 2**-2 / 12]
    assert FORMATS["fp16"].error_bound(torch.tensor([2.0**-26])).item() == 2.0**-25  # half a subnormal
    draws = torch.rand(100000, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 1
    for target in (precision(6), IntegerFormat(7)):
        measured = (target.round(draws) - draws).square().mean()
        assert 0.98 < measured / target.error_variance(draws).mean() < 1.02


def test_names() -> None:
    assert all(as_format(name) is row for name, row in FORMATS.items())
    assert as_format("half") is FORMATS["fp16"]
    assert as_format(torch.bfloat16) is FORMATS["bf16"]
    assert as_format(torch.float8_e4m3fn) is FORMATS["e4m3"]
    assert as_format(5) == precision(5)
    for target in (IntegerFormat(4, "group", 64), IntegerFormat(3, "channel", symmetric=False), FixedPoint(3, 5)):
        assert as_format(target.name) == target
        assert as_format(target) is target


@pytest.mark.parametrize("value", ["fp17", "int1", "int99", "", None, 0, 54, True, "int4_group0", "q0.0", 1.5])
def test_unknown_formats_are_refused(value: object) -> None:
    with pytest.raises(UsageError):
        as_format(value)  # pyright: ignore[reportArgumentType]


def test_misuse_is_refused() -> None:
    with pytest.raises(UsageError):
        FloatFormat("x", 4, 1)
    with pytest.raises(UsageError):
        IntegerFormat(4, "group")
    with pytest.raises(UsageError):
        IntegerFormat(4, group=3)
    with pytest.raises(UsageError):
        FORMATS["fp16"].round(torch.arange(3))
    with pytest.raises(NumericalError):
        IntegerFormat(4).round(torch.tensor([1.0, math.nan]))
    with pytest.raises(NumericalError):
        calibrated(IntegerFormat(4), torch.tensor([math.inf]))
    with pytest.raises(UsageError):
        calibrated(IntegerFormat(4, "sample"), torch.ones(3))
    with pytest.raises(UsageError):
        calibrated(IntegerFormat(4), torch.ones(3), percentile=0)
    with pytest.raises(UsageError):
        calibrated(IntegerFormat(4, "channel"), torch.ones(3, 2)).round(torch.ones(4, 2))
    with pytest.raises(UsageError):
        IntegerFormat(4, "channel", axis=2).round(torch.ones(4, 2))


def test_gamma() -> None:
    assert gamma(1000, 2**-11) == pytest.approx(0.9541984733, rel=1e-9)
    assert gamma(2000, 2**-11) == pytest.approx(41.667, rel=1e-4)
    assert math.sqrt(1000) * 2**-11 == pytest.approx(0.0154408089, rel=1e-8)
    assert gamma(2048, 2**-11) == gamma(10**9, 2**-11) == math.inf
    assert gamma_probabilistic(10**6, 2**-24) < gamma(10**6, 2**-24) / 50
    assert gamma_probabilistic(10**9, 0.25) == math.inf
    assert gamma_probabilistic(0, 2**-8) == 0
    for bad in ((-1, 2**-8), (10, -(2**-8)), (10, math.nan)):
        with pytest.raises(UsageError, match="at least 0"):
            gamma(*bad)
    with pytest.raises(UsageError):
        gamma_probabilistic(10, 2**-8, 0.0)


def test_accumulation_constants() -> None:
    u = 2.0**-11
    sequential = Accumulation("sequential", FORMATS["fp16"])
    assert sequential.constant(1000) == gamma(1000, u)
    assert Accumulation("pairwise", FORMATS["fp16"]).constant(1000) == gamma(11, u)
    assert Accumulation("blocked", FORMATS["fp16"], block=32).constant(1024) == gamma(63, u)
    low = FORMATS["e4m3"]
    mixed = Accumulation("mixed", FORMATS["fp32"], low=low)
    assert mixed.constant(100) == pytest.approx(2 / 16 + 1 / 256 + (17 / 16) ** 2 * gamma(100, 2**-24), rel=1e-12)
    assert Accumulation().constant(10**9) == Accumulation().probable(10**9) == 0
    for kind in (sequential, mixed):
        for n in (0, 1, 7, 1000, 10**5):
            assert 0 <= kind.probable(n) <= kind.constant(n)
    for arguments in ({"kind": "blocked", "format": low}, {"kind": "mixed", "format": low}, {"kind": "sequential"}):
        with pytest.raises(UsageError):
            Accumulation(**arguments)  # pyright: ignore[reportArgumentType]
    with pytest.raises(UsageError):
        Accumulation("sequential", FORMATS["int8"])


@pytest.mark.parametrize(
    ("value", "t", "bits", "ieee"),
    [(480.0, 4, 4, 5), (481.0, 4, 5, 5), (65504.0, 11, 5, 5), (65505.0, 11, 5, 6), (6.0, 2, 2, 3)],
)
def test_exponent_bits_follow_the_largest_value(value: float, t: int, bits: int, ieee: int) -> None:
    found = exponent_bits(torch.tensor([0.0, 1.0, -value]), t)
    assert (found.bits, found.ieee_bits, found.largest, found.smallest) == (bits, ieee, value, 1.0)


def test_exponent_bits_follow_the_underflow_share() -> None:
    x = torch.cat([torch.ones(990), torch.full((10,), 2.0**-25)])  # half the smallest number of fp16
    assert exponent_bits(x, 11, underflow=0.011).bits == 2
    strict = exponent_bits(x, 11, underflow=0.0)
    assert (strict.bits, strict.underflow) == (6, 0.0)
    assert exponent_bits(x * 1.01, 11, underflow=0.0).bits == 5
    assert exponent_bits(x, 11, underflow=0.0, subnormals=False).bits == 6
    for e in (3, 4, 5):  # the share is what really rounds to zero
        target = FloatFormat("x", 4, e)
        v = torch.logspace(-9, 0, 1000, dtype=torch.float64)
        lost = float((target.round(v) == 0).double().mean())
        assert exponent_bits(v, 4, underflow=lost).bits <= e
        assert exponent_bits(v, 4, underflow=lost - 1e-9).bits > e
    with pytest.raises(NumericalError):
        exponent_bits(torch.tensor([math.inf]), 8)
    with pytest.raises(UsageError):
        exponent_bits(torch.ones(2), 8, underflow=2.0)


class TestLargeTensors:
    """Worked through in pieces."""

    @pytest.mark.parametrize("name", ["fp16", "bf16", "e4m3"])
    def test_pieces_are_the_whole(self, name: str):
        target, x = as_format(name), numbers(3, 100_003, seed=4).T  # not contiguous, no multiple of any piece
        x[5], x[-1] = 1e9, float("inf")
        for function in (target.round, target.error_bound, target.error_variance, target.spacing):
            rows = torch.stack([function(row.contiguous()) for row in x.T], 1)
            torch.testing.assert_close(function(x), rows, rtol=0, atol=0, equal_nan=True)
            assert function(x.float()).dtype is torch.float32

    def test_input_stays(self):
        x = numbers(400_000, seed=5)
        before = x.clone()
        for target in (precision(53), precision(8)):
            _ = target.round(x), target.error_variance(x)
        assert torch.equal(x, before)
