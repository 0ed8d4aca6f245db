"""The estimate of a sweep's time: exact where time is a straight line in operations, whatever the units cost."""

from typing import Any

import pytest
import torch
from torch import nn

from assay.filtering import FilteringConfig, estimate, job_of
from assay.subject import Subject


def job(mode: Any):
    torch.manual_seed(0)
    wide = [nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 16, 3, padding=1), nn.ReLU()]
    narrow = [nn.Conv2d(16, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Flatten()]
    dense = [nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 3)]
    network = nn.Sequential(*wide, *narrow, *dense)
    x = torch.rand(20, 1, 8, 8)
    return job_of(Subject.from_model(network, (x, torch.arange(20) % 3)), FilteringConfig(mode=mode, epsilon=0.1, n=5))


@pytest.mark.parametrize(("mode", "shares"), [("static", (1.0,)), ("adaptive", (1.0,)), ("screen", (1.0, 0.5))])
def test_time_that_is_overhead_and_operations_is_foreseen_exactly(monkeypatch, mode, shares):
    sweep = job(mode)
    overhead, rate = 0.5, 1e-6

    def seconds(job, variants, static):
        return overhead + rate * job.cost(variants, static)

    monkeypatch.setattr(estimate, "_seconds", seconds)
    monkeypatch.setattr(estimate, "_baseline", lambda job, runner: 2.0)
    every = list(sweep.variants())
    counts = [len(each.needed(list(each.rows))) for each in every]
    stages = (True, False)[: sweep.stages - 1]
    expected = 2.0 + sum(
        share * sum(count * seconds(sweep, each, static) for count, each in zip(counts, every, strict=True))
        for share, static in zip(shares if len(stages) == len(shares) else (1.0, 1.0), stages, strict=True)
    )
    found = estimate.estimated(sweep)
    assert found.seconds == pytest.approx(expected, rel=1e-9)
    assert found.low <= found.seconds <= found.high
    assert (found.low < found.high) == (mode == "screen")


def test_cheapest_and_costliest_units_are_measured():
    assert {3, 6} <= set(estimate._spread([5.0, 4.0, 6.0, 1.0, 5.0, 5.0, 9.0, 5.0, 5.0, 5.0, 5.0]))


def test_a_real_estimate_is_a_positive_time():
    assert estimate.estimated(job("screen")).low > 0
