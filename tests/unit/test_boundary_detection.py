"""The detector: signs, statuses, seeds and labels on boundaries that are known."""

import math
from dataclasses import replace

import pytest
import torch
from tests.support.boundary_detection import draw, linear, one_sided, paraboloid, quadratic
from tests.support.fashion import fashion_cnn, fashion_pictures
from torch import nn

from assay.boundary.detection import RULES, STATISTICS, Detector
from assay.boundary.detection.view import Look, View
from assay.boundary.field import Field
from assay.errors import UsageError
from assay.subject import Subject


def pushed(size: int = 6) -> torch.Tensor:
    x = torch.zeros(1, size, dtype=torch.float64)
    x[0, 0] = 1.02
    return x


def test_clean_and_pushed_samples_see_opposite_bends():
    clean = torch.zeros(1, 6, dtype=torch.float64)
    detector = Detector(threshold=0.0).fit(paraboloid(-0.1), clean)
    scores = detector.score(torch.cat([clean, pushed()]))
    torch.testing.assert_close(scores, torch.tensor([-0.1, 0.1], dtype=torch.float64), rtol=0, atol=1e-9)
    assert detector.predict(torch.cat([clean, pushed()])).tolist() == [False, True]
    found = detector.examine(torch.cat([clean, pushed()]))
    assert found.status == ("clean", "flagged")
    assert found.recovered.tolist() == [1, 0]
    assert found.label.tolist() == [0, 1]
    assert found.corrected.tolist() == [0, 0]


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_names_the_original_class(rule: str):
    detector = Detector(threshold=0.0, rule=rule).fit(paraboloid(-0.1), torch.zeros(1, 6, dtype=torch.float64))
    assert detector.recover_labels(pushed()).tolist() == [0]


@pytest.mark.parametrize("name", ["kappa_at_boundary", "kappa_at_sample", "drift"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_linear_model_is_degenerate_not_clean(name: str, dtype: torch.dtype):
    model, x = linear(dtype=dtype), draw(5, 30, 6).to(dtype)
    detector = Detector(name).fit(model, x)
    found = detector.examine(x[:4])
    assert set(found.status) == {"degenerate"}
    assert found.score.abs().max() < (1e-12 if dtype == torch.float64 else 1e-4)
    assert found.recovered.tolist() == [-1] * 4
    assert torch.isnan(found.p_value).all()
    assert not detector.predict(x).any()
    assert not found.flagged.any()


@pytest.mark.parametrize("name", ["logit_gap", "distance", "smoothed_margin"])
def test_margins_say_something_about_linear_models_too(name: str):
    model, x = linear(), draw(5, 60, 6)
    gap = model(x).topk(2, dim=1).values.diff(dim=1)[:, 0].detach()
    detector = Detector(name).fit(model, x[gap < -0.5])
    near = x[gap > -0.05] if bool((gap > -0.05).any()) else x[gap.argmax()][None]
    found = detector.examine(near)
    assert set(found.status) == {"flagged"}
    assert (found.recovered >= 0).all()


def test_no_boundary_is_inconclusive():
    x = draw(6, 5, 3)
    found = Detector(threshold=0.0).fit(one_sided, x).examine(x)
    assert set(found.status) == {"inconclusive"}
    assert torch.isnan(found.score).all()
    assert torch.isnan(found.p_value).all()
    assert found.recovered.tolist() == [-1] * 5
    assert not found.flagged.any()
    assert torch.isfinite(found.every["logit_gap"]).all()


def test_without_any_clean_score_there_is_no_threshold():
    with pytest.raises(UsageError, match="no clean sample"):
        Detector().fit(one_sided, draw(6, 40, 3))


def test_statistics_about_samples_agree_with_the_hessians():
    model, matrices = quadratic()
    x, radius, probes = draw(7, 6, 8), 0.7, 4000
    view = View(Field(model), x, Look(scale=0.3, smoothing=radius, probes=probes))
    offset = model(x) - model(x).gather(1, view.own[:, None])
    torch.testing.assert_close(view.offset, offset)
    around = view.around(radius)
    for row, own in enumerate(view.own.tolist()):
        hessians = matrices - matrices[own]
        traces = hessians.diagonal(dim1=1, dim2=2).sum(1)
        rise = radius**2 * traces / (2 * 8)  # the average of v.Hv over the sphere is tr H / d
        assert ((around.rise[row] - rise).abs() <= 5 * around.error[row] + 1e-12).all()
        assert ((around.mean[row] - offset[row] - rise).abs() <= 5 * around.error[row] + 1e-12).all()
        bends, errors = view.bends
        for column, rival in enumerate(view.candidates[row].tolist()):
            point = x[row].clone().requires_grad_(True)
            value = model(point[None])[0]
            (gradient,) = torch.autograd.grad(value[rival] - value[own], point)
            normal = gradient / gradient.norm()
            exact = (traces[rival] - normal @ hessians[rival] @ normal) / (7 * gradient.norm())
            assert abs(bends[row, column] - exact) <= 5 * errors[row, column]
            assert errors[row, column] < 0.1 * abs(exact) + 0.01


def test_the_largest_rise_and_lead_are_reported():
    model, _ = quadratic()
    view = View(Field(model), draw(8, 5, 8), Look(scale=0.3, smoothing=0.7))
    around, rivals = view.around(0.7), torch.ones(5, 4, dtype=torch.bool).scatter(1, view.own[:, None], value=False)
    expected = torch.stack([row[mask].max() for row, mask in zip(around.rise, rivals, strict=True)])
    torch.testing.assert_close(STATISTICS["drift"].measure(view)[0], expected)
    expected = torch.stack([row[mask].max() for row, mask in zip(around.mean, rivals, strict=True)])
    torch.testing.assert_close(STATISTICS["smoothed_margin"].measure(view)[0], expected)
    expected = torch.stack([row[mask].max() for row, mask in zip(view.offset, rivals, strict=True)])
    torch.testing.assert_close(STATISTICS["logit_gap"].measure(view)[0], expected)
    assert (STATISTICS["distance"].measure(view)[0] == -view.boundary.distance).all()


@pytest.mark.slow
def test_same_seed_same_bits_and_any_batch():
    network, (x, _) = fashion_cnn(), fashion_pictures()
    look = Look(2.8, 5.6, probes=8)
    whole, again = (View(Field(network), x[8:12], look) for _ in range(2))
    alone = [View(Field(network), each[None], look) for each in x[8:12]]
    other = View(Field(network), x[8:12], replace(look, seed=1))
    other.boundary = whole.boundary
    for name, statistic in STATISTICS.items():
        scores = statistic.measure(whole)[0]
        assert torch.equal(scores, statistic.measure(again)[0]), name
        single = torch.cat([statistic.measure(each)[0] for each in alone])
        torch.testing.assert_close(single, scores, rtol=1e-5, atol=1e-5)
        assert torch.equal(scores, statistic.measure(other)[0]) == statistic.baseline, name


def test_standard_errors_cover_what_other_seeds_give():
    network, (x, _) = fashion_cnn(), fashion_pictures()
    field = Field(network)
    views = [View(field, x[:4], Look(2.8, 5.6, probes=20, seed=seed)) for seed in range(8)]
    for view in views[1:]:
        view.boundary = views[0].boundary  # the same points; only the directions differ
    for name in ("kappa_at_boundary", "smoothed_margin"):
        scores, errors = zip(*(STATISTICS[name].measure(view) for view in views), strict=True)
        seen, stated = torch.stack(scores).std(0).norm(), torch.stack(errors).mean(0).norm()
        assert 0.4 < float(seen / stated) < 1.7, name


def test_results_hold_baselines_scale_and_caveat():
    network, (x, _) = fashion_cnn(), fashion_pictures()
    detector = Detector("smoothed_margin", false_positive_rate=0.1, probes=10, refine=False)
    detector.fit(Subject.from_model(network, x[:12]), x[:12])
    found = detector.examine(x[30:34])
    assert set(found.every) == set(STATISTICS) == set(found.every_p_value)
    assert next(iter(found.every)) == "smoothed_margin"
    assert math.isclose(found.scale, 2.8, rel_tol=0.02)  # a tenth of the range in each of 784 pixels
    assert found.smoothing == 2 * found.scale
    assert (found.probes, found.false_positive_rate, len(found)) == (10, 0.1, 4)
    assert "adaptive" in found.caveat
    assert torch.equal(found.score, found.every["smoothed_margin"])
    assert torch.equal(detector.p_value(x[30:34]), found.p_value)
    assert torch.equal(detector.predict(x[30:34]), found.flagged)
    assert ((found.p_value <= 0.1) == found.flagged).all()
    assert (found.error > 0).all()


def test_a_verdict_close_to_the_threshold_is_marked():
    model, x = quadratic()[0], draw(12, 4, 8)
    detector = Detector("smoothed_margin", threshold=0.0, probes=10).fit(model, x)
    score, error = (float(each[0]) for each in STATISTICS["smoothed_margin"].measure(detector.view(x[:1])))
    assert error > 0
    for shift, close in ((1.0, True), (3.0, False)):
        detector = Detector("smoothed_margin", threshold=score + shift * error, probes=10).fit(model, x)
        assert detector.examine(x[:1]).close.tolist() == [close]


def test_the_network_is_untouched():
    network = nn.Sequential(nn.Linear(5, 8), nn.Dropout(), nn.ReLU(), nn.Linear(8, 3)).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    x = draw(9, 30, 5).float()
    first = Detector("smoothed_margin").fit(network, x).score(x)
    assert torch.equal(first, Detector("smoothed_margin").fit(network, x).score(x))  # without dropout
    assert network.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in network.parameters())


def test_memory_blocks_do_not_change_the_directions(monkeypatch: pytest.MonkeyPatch):
    model, _ = quadratic()
    x, look = draw(10, 5, 8), Look(0.3, 0.7, probes=6)
    whole = View(Field(model), x, look).around(0.7)
    monkeypatch.setattr("assay.boundary.detection.view.ELEMENTS", 6 * 8 * 2)
    torch.testing.assert_close(View(Field(model), x, replace(look)).around(0.7).mean, whole.mean)


@pytest.mark.parametrize(
    ("settings", "part"),
    [
        ({"statistic": "magic"}, "magic"),
        ({"rule": "magic"}, "magic"),
        ({"probes": 1}, "probes=1"),
        ({"scale": 0.0}, "scale=0.0"),
        ({"smoothing": math.inf}, "smoothing=inf"),
        ({"false_positive_rate": 0.0}, "false_positive_rate=0.0"),
        ({"calibration_share": 1.0}, "calibration_share=1.0"),
    ],
)
def test_settings_that_are_none_are_refused(settings: dict, part: str):
    with pytest.raises(UsageError, match=part):
        Detector(**settings)


def test_misuse_is_explained():
    x = draw(11, 5, 6)
    with pytest.raises(UsageError, match="Call fit"):
        Detector().score(x)
    with pytest.raises(UsageError, match="19 clean samples"):
        Detector("logit_gap").fit(linear(), x)
    with pytest.raises(UsageError, match="learns nothing"):
        Detector("logit_gap").fit(linear(), x, x)
    with pytest.raises(UsageError, match="no rule 'magic'"):
        Detector("logit_gap", threshold=0.0).fit(linear(), x).recover_labels(x, rule="magic")
