"""What a sweep is identified by, so that a resumed one never takes the outcomes of another."""

from functools import partial
from typing import Any

import pytest
import torch
from tests.support.displays import subject
from torch import Tensor

from assay.covariance import Diagonal
from assay.filtering import FilteringConfig, job_of


def nudge(model: Any, x: Tensor, y: Tensor, *, by: Any, **more: Any) -> Tensor:
    return x


def identity(**settings: Any) -> dict[str, Any]:
    config = FilteringConfig(n=3, inputs=20, mode="static")
    return dict(job_of(subject(), config, attack=partial(nudge, **settings), bounds=None).identity)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (0.1, 0.2),
        ((1, 2), (1, 3)),
        (torch.arange(5000.0), torch.arange(5000.0).index_fill(0, torch.tensor([2500]), 0.0)),
        (Diagonal(torch.ones(1, 3)), Diagonal(torch.full((1, 3), 2.0))),
    ],
    ids=["number", "tuple", "tensor whose print leaves the middle out", "object that prints shapes alone"],
)
def test_settings_of_an_attack_count_in_full(one: Any, other: Any):
    assert identity(by=one) == identity(by=one)
    assert identity(by=one) != identity(by=other)


def test_what_cannot_be_pickled_counts_as_it_prints():
    assert identity(by=0.1, then=lambda x: x)["attack"] is not None
