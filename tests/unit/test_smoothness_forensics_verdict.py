"""Verdicts: kinks, no evidence, refusals with their reasons; confounders; references; files of tracks."""

import io
import json
import math
import zipfile

import numpy as np
import pytest
from tests.support import smoothness_forensics as made

from assay.errors import SubjectError, UsageError
from assay.smoothness.evidence import tracks as reading
from assay.smoothness.evidence.confounders import found_in
from assay.smoothness.evidence.tracks import Tracks, read_folder, read_tracks, with_times
from assay.smoothness.evidence.verdict import forensics

COUNT = 6


@pytest.fixture(scope="module")
def noisy():
    rng = np.random.default_rng(4)
    pools = {"relu": made.relu_tracks(rng, COUNT), "gp": made.gp_tracks(rng, 20)}
    return {name: y + 1e-3 * rng.standard_normal(y.shape) for name, y in pools.items()}


def test_verdicts(noisy):
    kinked, smooth = (forensics(noisy[name][0], step=made.STEP) for name in ("relu", "gp"))
    assert (kinked.verdict, kinked.p_value, kinked.method) == ("kinks", 0.01, "spline bootstrap")
    assert kinked.interval[0] <= kinked.statistic <= kinked.interval[1]
    assert smooth.verdict == "no evidence of kinks"
    assert smooth.power >= 0.5
    assert "not neural networks" in smooth.caveats[0]
    json.dumps(smooth.to_dict(), allow_nan=False)


def test_the_same_answer_again_and_wherever_the_track_stands(noisy):
    one = forensics(noisy["relu"][1], replicates=19)
    pair = forensics(np.stack([noisy["gp"][0], noisy["relu"][1]], 1), replicates=19)
    assert pair.tracks[1].p_value == one.p_value
    assert pair.tracks[1].energy == one.tracks[0].energy


@pytest.mark.parametrize(
    ("track", "words"),
    [
        (np.full(300, np.nan), "not finite"),
        (np.ones(300), "constant"),
        (np.arange(300.0) * 0.1, "straight line"),
        (np.sin(np.arange(99.0)), "too few"),
        (np.random.default_rng(0).standard_normal(600), "noise hides"),
        (np.repeat(np.sin(np.arange(300) / 20) + 1e-3 * np.random.default_rng(0).standard_normal(300), 2), "repeated"),
        (np.round(np.sin(np.arange(601) / 40) * 5) / 5, "quantisation"),
    ],
)
def test_refusals(track, words):
    found = forensics(track)
    assert found.verdict == "refused"
    assert words in found.reason
    assert math.isnan(found.p_value)


def test_irregular_times_are_refused_and_regular_ones_used(noisy):
    t = np.arange(made.SAMPLES) * 0.02
    assert forensics(noisy["gp"][0], times=t).step == pytest.approx(0.02)
    bent = t.copy()
    bent[100:] += 0.01
    found = forensics(noisy["gp"][0], times=bent)
    assert found.verdict == "refused"
    assert "steps from" in found.reason


def test_filtered_tracks_are_refused_without_references_and_tested_with_them(noisy):
    apply = made.FILTERS["Gaussian 1.5"]
    smooth = apply(noisy["gp"])
    assert "filtering" in forensics(smooth[0]).reason
    found = forensics(smooth[0], reference=[*smooth[1:], *smooth[1:3]])
    assert found.method == "conformal"
    assert found.verdict != "refused"
    assert found.p_value > 0.05


def test_noise_makes_a_verdict_meaningless(noisy):
    loud = noisy["gp"][0] + 0.2 * np.random.default_rng(0).standard_normal(made.SAMPLES)
    found = forensics(loud)
    assert found.verdict == "refused"
    assert found.reason


def test_references(noisy):
    found = forensics(noisy["relu"][0], reference=noisy["gp"].T)
    assert (found.method, found.verdict, found.p_value) == ("conformal", "kinks", pytest.approx(1 / 21))
    few = forensics(noisy["relu"][0], reference=noisy["gp"][:5].T)
    assert few.method == "spline bootstrap"
    assert any("5 usable reference tracks" in each for each in few.caveats)
    loud = noisy["gp"] + 0.1 * np.random.default_rng(0).standard_normal(noisy["gp"].shape)
    assert any("ratio of noise" in each for each in forensics(noisy["relu"][0], reference=loud.T).caveats)
    with pytest.raises(UsageError, match="time step"):
        forensics(noisy["relu"][0], step=0.02, reference=Tracks(noisy["gp"].T, ("x",) * 20, 0.04, timed=True))


def test_several_tracks_are_combined_by_a_stated_rule(noisy):
    together = np.stack([*noisy["relu"][:2], noisy["gp"][0]], 1)
    joint = forensics(together)
    assert joint.verdict == "kinks"
    assert joint.rule.startswith("joint")
    assert joint.p_value == 0.01
    assert [each.verdict for each in joint.tracks] == ["kinks", "kinks", "no evidence of kinks"]
    assert joint.tracks[0].adjusted == pytest.approx(0.03)
    assert forensics(together, combination="bonferroni").p_value == pytest.approx(0.03)
    recordings = [noisy["gp"][[i % 20, (i + 7) % 20, (i + 11) % 20]].T for i in range(20)]
    assert forensics(together, reference=recordings).rule.startswith("joint")


def test_too_few_references_for_many_tracks_are_no_evidence_for_smoothness(noisy):
    found = forensics(noisy["relu"][:4].T, reference=noisy["gp"].T)
    assert found.verdict == "refused"
    assert "give more of them" in found.reason


def test_one_bad_track_among_good_ones_is_left_out(noisy):
    together = np.stack([noisy["relu"][0], np.ones(made.SAMPLES), noisy["relu"][1]], 1)
    found = forensics(together, names=("x", "y", "z"))
    assert found.verdict == "kinks"
    assert "2 of 3 tracks used" in found.rule
    assert found.tracks[1].reason == "the track is constant"


@pytest.mark.parametrize(
    "options", [{"level": 0.0}, {"replicates": 5}, {"combination": "mean"}, {"step": -1.0}, {"names": ("a", "b")}]
)
def test_usage_errors(noisy, options):
    with pytest.raises(UsageError):
        forensics(noisy["gp"][0], **options)


def names_in(tracks):
    return [tuple(each.name for each in found_in(y)) for y in tracks]


def test_confounders_are_named(noisy):
    rng = np.random.default_rng(7)
    gp = made.gp_tracks(rng, COUNT)
    white = 1e-3 * rng.standard_normal(gp.shape)
    expected = {
        "filtering": made.FILTERS["Savitzky-Golay 11, 3"](gp + white),
        "coloured noise": gp + 1e-3 * made.coloured(rng, gp.shape),
        "quantisation": np.round(gp / 0.01) * 0.01,
        "key-framing": made.key_framed(gp, 12) + 0.2 * white,
        "repeated samples": np.repeat(gp[:, ::2] + white[:, ::2], 2, axis=1),
    }
    for name, tracks in expected.items():
        assert sum(name in each for each in names_in(tracks)) >= 0.8 * COUNT, name
    for tracks in (gp, gp + white, noisy["relu"]):
        assert sum(len(each) > 0 for each in names_in(tracks)) <= 0.2 * COUNT


def test_key_frames_come_with_their_period():
    gp = made.gp_tracks(np.random.default_rng(0), 1)
    assert "every 12 samples (0.24 of" in found_in(made.key_framed(gp, 12, smooth=True)[0], 0.02)[0].text
    assert "every 2 samples" in found_in(made.key_framed(gp, 2)[0])[0].text
    lines = np.interp(np.arange(600), [0, 90, 250, 333, 480, 600], [0, 1, 0.2, 0.9, 0.7, 2.0])
    assert "linear pieces with 4 isolated bends" in found_in(lines)[0].text


def test_csv(tmp_path):
    file = tmp_path / "a.csv"
    file.write_text("time,x,y,note\n0.0,1,2,a\n0.5,,4,b\n1.0,5,6,c\n")
    found = read_tracks(file)
    assert (found.names, found.step, found.timed) == (("x", "y"), 0.5, True)
    assert np.isnan(found.values[1, 0])
    assert "'note'" in found.notes[0]
    assert read_tracks(file, rate=10).step == pytest.approx(0.1)
    file.write_text("1;2,5\n3;4,5\n")
    found = read_tracks(file)
    assert found.values.tolist() == [[1, 2.5], [3, 4.5]]
    assert found.timed is False


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "empty"),
        ("x,y\n", "no samples"),
        ("x,y\n1,2\n3\n", "1 cells"),
        ("x,y\n1,2\n3,four\n", "'four'"),
        ("x,x\n1,2\n", "same name"),
        ("x\nabc\n", "No column"),
        ("\x00\x01,\n1,2\n3\n", "cells"),
    ],
)
def test_unusable_csv(tmp_path, text, words):
    file = tmp_path / "a.csv"
    file.write_text(text)
    with pytest.raises(SubjectError, match=words):
        read_tracks(file)


def test_arrays(tmp_path):
    t = np.arange(5) / 10
    np.savez(tmp_path / "a.npz", t=t, face=np.ones((5, 2)), nose=np.zeros(5))
    found = read_tracks(tmp_path / "a.npz")
    assert found.names == ("face[0]", "face[1]", "nose")
    assert found.step == pytest.approx(0.1)
    np.save(tmp_path / "b.npy", np.ones((5, 2), np.float32))
    assert read_tracks(tmp_path / "b.npy").names == ("b[0]", "b[1]")
    assert len(read_folder(tmp_path)) == 2


def test_hostile_arrays(tmp_path):
    np.savez(tmp_path / "p.npz", x=np.array([{}], dtype=object))
    np.savez(tmp_path / "r.npz", x=np.zeros(3), y=np.zeros(4))
    np.savez(tmp_path / "c.npz", x=np.zeros((3, 3, 3)))
    huge = io.BytesIO()
    np.lib.format.write_array_header_1_0(huge, {"descr": "<f8", "fortran_order": False, "shape": (10**12,)})
    with zipfile.ZipFile(tmp_path / "h.npz", "w") as archive:
        archive.writestr("x.npy", huge.getvalue())
    (tmp_path / "z.npz").write_bytes(b"PK\x03\x04 not a zip")
    for name, words in (("p", "pickled"), ("r", "lengths"), ("c", "shape"), ("h", "header"), ("z", "damaged")):
        with pytest.raises(SubjectError, match=words):
            read_tracks(tmp_path / f"{name}.npz")


def test_limits_and_names(tmp_path, monkeypatch):
    file = tmp_path / "a.csv"
    file.write_text("x,y\n1,2\n3,4\n")
    with pytest.raises(UsageError, match="'clock'"):
        read_tracks(file, time="clock")
    with pytest.raises(UsageError, match="rate"):
        read_tracks(file, rate=0)
    monkeypatch.setattr(reading, "LARGEST_FILE", 4)
    with pytest.raises(SubjectError, match="MiB"):
        read_tracks(file)
    with pytest.raises(SubjectError, match="folder"):
        read_folder(tmp_path / "none")


@pytest.mark.parametrize(
    ("times", "words"),
    [([0, 1, 2, 4, 5], "missing samples"), ([0, 1, 1, 2, 3], "grow"), ([0, 1, 2, np.nan, 4], "gaps")],
)
def test_odd_times(times, words):
    assert words in with_times(Tracks(np.zeros((5, 1)), ("x",)), np.array(times, float)).irregular


@pytest.mark.parametrize(
    "track",
    [np.arange(600) > 300, np.eye(1, 600, 300)[0], [0, 1] * 300, np.sign(np.sin(np.arange(600) / 50 + 0.01))],
    ids=["step", "spike", "alternating", "square"],
)
def test_tracks_that_stand_still_between_jumps_are_measured(track):
    found = forensics(track)
    assert (found.verdict, 0 <= found.statistic <= 1) == ("refused", True)


@pytest.mark.parametrize("size", [1e300, 1e-300])
def test_numbers_whose_squares_overflow_are_refused(noisy, size):
    found = forensics(size * noisy["relu"][0])
    assert found.verdict == "refused"
    assert "change their unit" in found.reason


@pytest.mark.parametrize("track", ["abc", ["a", "b"], [[1, 2], [3]], {"a": 1}, np.ones(300) * 1j], ids=str)
def test_tracks_must_be_real_numbers(track):
    with pytest.raises(UsageError, match="real numbers"):
        forensics(track)


@pytest.mark.parametrize(
    "wrong", [{"step": "a"}, {"step": None}, {"times": "abc"}, {"seed": -1}, {"reference": "here"}]
)
def test_settings_that_are_no_numbers(noisy, wrong):
    with pytest.raises(UsageError):
        forensics(noisy["relu"][0], **wrong)
