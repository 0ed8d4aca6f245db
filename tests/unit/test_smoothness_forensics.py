"""The kink share, its energy, its calibration and the combination of tracks, against what is known of made tracks."""

import numpy as np
import pytest
from scipy.stats import kstest
from tests.support import smoothness_forensics as made

from assay.boundary.detection.calibration import auc
from assay.smoothness.estimators.sampled import smp_sampled
from assay.smoothness.evidence.calibration import bootstrap, conformal, noise_like, smooth_curves
from assay.smoothness.evidence.combination import combined, holm
from assay.smoothness.evidence.statistic import kink_energy, kink_shares, levels, strides


def shares(tracks):
    return kink_shares(tracks[:, None, :]).share


def with_noise(tracks, noise, seed=5):
    return tracks + noise * np.random.default_rng(seed).standard_normal(tracks.shape)


@pytest.fixture(scope="module")
def pools():
    rng = np.random.default_rng(1)
    return made.relu_tracks(rng, 60), made.tanh_tracks(rng, 60), made.gp_tracks(rng, 60)


def test_third_differences_of_noise_kinks_and_walks_follow_their_laws():
    rng = np.random.default_rng(0)
    scales = np.array([1, 2, 4, 8])
    kinked, jumps = made.random_kinks(rng, 60_001, 3.0)
    energy = np.square(jumps).mean() * len(jumps) / 60_000
    found = levels(kinked[None], scales)
    variance = np.square(np.diff(kinked, 6)).mean() / 924
    assert found * variance / (energy * scales**3) == pytest.approx([1] * 4, abs=0.05)  # 1.5 B k^3, B = 2/3 energy
    walk = np.cumsum(rng.standard_normal(60_000))
    variance = np.square(np.diff(walk, 6)).mean() / 924
    assert levels(walk[None], scales) * variance / (6 * scales) == pytest.approx([1] * 4, abs=0.05)
    assert levels(rng.standard_normal((1, 60_000)), scales) == pytest.approx([20] * 4, rel=0.05)


@pytest.mark.parametrize("noise", [1e-4, 1e-2])
def test_the_energy_of_known_kinks(noise):
    rng = np.random.default_rng(2)
    kinked, jumps = made.random_kinks(rng, 6001, 0.3)
    scale = kinked.std()
    step = 1 / 50
    y = kinked / scale + 0.01 * noise * rng.standard_normal(6001)
    truth = np.square(jumps / scale / step).sum() / (6000 * step)
    found = kink_energy(y, step)
    assert found.energy == pytest.approx(truth, rel=0.15)
    assert found.energy_low < truth < found.energy_high
    assert found.share > 0.95


def test_noise_is_measured(pools):
    found = kink_energy(with_noise(pools[2], 0.01)[0], made.STEP)
    assert found.noise == pytest.approx(0.01, rel=0.1)


@pytest.mark.parametrize(("noise", "least", "lead"), [(1e-2, 0.99, 0.05), (3e-2, 0.95, 0.2)])
def test_random_relu_networks_stand_out_where_heights_fail(pools, noise, least, lead):
    relu, *smooth = (with_noise(each, noise) for each in pools)
    for other in smooth:
        found = auc(shares(other), shares(relu)).value
        naive = auc(*([smp_sampled(y, 1.0, form="height") for y in each] for each in (other, relu))).value  # type: ignore[arg-type]
        assert found >= least
        assert found > naive + lead


def test_the_share_has_no_units(pools):
    y = with_noise(pools[0][:3], 1e-2)
    assert shares(1e6 * y + 5) == pytest.approx(shares(y), abs=1e-6)
    assert shares(y[:, ::-1]) == pytest.approx(shares(y), abs=1e-9)
    one, other = kink_energy(y[0], 0.5), kink_energy(3 * y[0], 1.0)
    assert other.energy == pytest.approx(9 / 8 * one.energy)
    assert other.noise == pytest.approx(3 * one.noise)


def test_tracks_count_by_their_motion_over_their_noise(pools):
    rng = np.random.default_rng(0)
    kinked, empty = with_noise(pools[0], 1e-3)[0], rng.standard_normal(made.SAMPLES)
    alone, joint = (float(kink_shares(np.stack(each)).share) for each in ([kinked], [kinked, empty]))
    assert joint == pytest.approx(alone, abs=0.1)


def test_strides_grow_to_a_tenth():
    assert strides(100).tolist() == list(range(1, 11))
    assert strides(1000)[-1] == 100
    assert strides(100_000)[-1] == 240


def test_conformal_p_values_are_uniform():
    draws = np.random.default_rng(0).standard_normal((400, 100))
    found = np.array([conformal(row[0], row[1:]) for row in draws])
    assert found.min() >= 0.01
    assert kstest(found - 0.005, "uniform").pvalue > 0.001
    assert (found <= 0.05).mean() <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 400)


def test_conformal_size_and_power_on_held_out_tracks(pools):
    relu, tanh, gp = (shares(with_noise(each, 1e-2)) for each in pools)
    known = np.concatenate([tanh[:30], gp[:30]])
    wrong = np.array([conformal(s, known) <= 0.05 for s in np.concatenate([tanh[30:], gp[30:]])])
    assert wrong.mean() <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / len(wrong))
    assert np.mean([conformal(s, known) <= 0.05 for s in relu]) > 0.9


def test_spline_bootstrap(pools):
    relu, tanh, gp = (with_noise(each[:8], 3e-3) for each in pools)
    kinked = [bootstrap(y[None], replicates=39, power=False, seed=i).p_value for i, y in enumerate(relu)]
    smooth = [bootstrap(y[None], replicates=39, power=False, seed=i).p_value for i, y in enumerate((*tanh, *gp))]
    assert np.mean(np.array(kinked) <= 0.05) >= 0.9
    assert np.mean(np.array(smooth) <= 0.05) <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / len(smooth))


def test_power_falls_with_noise(pools):
    quiet, loud = (bootstrap(with_noise(pools[2], s)[:1], replicates=39).power for s in (1e-3, 0.3))
    assert quiet > 0.9
    assert loud < quiet - 0.2


def test_smooth_curves_follow_the_motion_and_not_the_noise(pools):
    curve = smooth_curves(with_noise(pools[2], 1e-2)[:2], 20)
    assert np.abs(curve - pools[2][:2])[:, 20:-20].max() < 0.05


def test_coloured_noise_is_drawn_with_its_memory():
    rng = np.random.default_rng(0)
    tracks = made.coloured(rng, (1, 4000), 5.0)
    drawn = noise_like(tracks, np.zeros_like(tracks), 20, rng, True)[:, 0]
    assert drawn.std() == pytest.approx(1, abs=0.1)
    assert (drawn[:, 1:] * drawn[:, :-1]).mean() == pytest.approx(np.exp(-1 / 5), abs=0.1)


def test_combinations():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []
    assert combined([0.2], "harmonic") == pytest.approx(0.2)
    assert np.isnan(combined([], "bonferroni"))
    rng = np.random.default_rng(0)
    null = np.array([[combined(p, rule) for rule in ("bonferroni", "harmonic")] for p in rng.random((600, 6))])
    assert ((null <= 0.05).mean(0) <= 0.08).all()


@pytest.mark.slow
def test_trained_convolutional_networks():
    rows = {}
    networks = {kind: made.trained(*kind, 0) for kind in (("relu", "max"), ("tanh", "avg"), ("softplus", "avg"))}
    rng = np.random.default_rng(3)
    import torch

    for _ in range(25):
        path = made.motion(rng, 2.4)
        rows.setdefault("truth", []).extend(path[0].T.numpy())
        with torch.no_grad():
            x = made.blobs(*path)
            for kind, network in networks.items():
                rows.setdefault(kind, []).extend(network(x).T.numpy())
    for noise, least in ((3e-3, 0.95), (1e-2, 0.95)):
        found = {kind: shares(with_noise(made.unit(np.array(y)), noise)) for kind, y in rows.items()}
        kinked = found.pop(("relu", "max"))
        assert min(auc(other, kinked).value for other in found.values()) >= least
