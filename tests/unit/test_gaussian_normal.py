"""The normal law against 40-digit truth, also where naive formulas underflow."""

import mpmath
import pytest
import torch

from assay.errors import UsageError
from assay.gaussian import density, distribution, log_distribution, mills_ratio, relu_covariance, relu_moments
from assay.gaussian.arguments import as_tensors

POINTS = (-37.0, -20.0, -8.5, -8.0, -3.0, -0.5, 0.0, 0.7, 3.0, 8.0)


def truth(name: str, x: float) -> float:
    with mpmath.workdps(40):
        point = mpmath.mpf(x)
        below, phi = mpmath.ncdf(point), mpmath.npdf(point)
        above = mpmath.ncdf(-point)
        return float({"density": phi, "distribution": below, "log": mpmath.log(below), "mills": above / phi}[name])


@pytest.mark.parametrize(
    ("name", "function"),
    [("density", density), ("distribution", distribution), ("log", log_distribution), ("mills", mills_ratio)],
)
def test_relative_accuracy_far_into_the_tail(name, function):
    values = function(torch.tensor(POINTS, dtype=torch.float64))
    expected = torch.tensor([truth(name, x) for x in POINTS], dtype=torch.float64)
    torch.testing.assert_close(values, expected, rtol=1e-12, atol=0)


def test_the_tail_keeps_its_derivatives():
    x = torch.tensor([-30.0, -3.0, 0.0, 3.0], dtype=torch.float64, requires_grad=True)
    for function in (density, distribution, log_distribution, mills_ratio):
        assert torch.autograd.gradcheck(function, (x[1:].detach().requires_grad_(),))
        assert torch.isfinite(torch.autograd.grad(function(x).sum(), x)[0]).all()


def test_numbers_become_double_and_tensors_keep_their_dtype():
    assert as_tensors(1.0, 2)[0].dtype == torch.float64
    assert {t.dtype for t in as_tensors(torch.zeros(2), 0.5)} == {torch.float32}
    assert {t.dtype for t in as_tensors(torch.zeros(2), torch.zeros(2, dtype=torch.float64))} == {torch.float64}
    assert as_tensors(torch.arange(3))[0].dtype == torch.float64
    assert as_tensors(torch.zeros(2, dtype=torch.bfloat16))[0].dtype == torch.float32


def test_impossible_arguments_are_named():
    with pytest.raises(UsageError, match=r"-0\.5") as caught:
        relu_moments(0.0, torch.tensor([1.0, -0.5]))
    assert "std" in caught.value.where
    with pytest.raises(UsageError, match="correlation") as caught:
        relu_covariance(0.0, 1.0, 0.0, 1.0, 1.01)
    assert "rho" in caught.value.where
    assert torch.isfinite(relu_covariance(0.0, 1.0, 0.0, 1.0, 1 + 1e-12))
    assert torch.isnan(relu_moments(float("nan"), 1.0)[0])
    assert torch.isnan(relu_covariance(0.0, 1.0, 0.0, 1.0, float("nan")))
