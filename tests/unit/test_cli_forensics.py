"""`assay forensics`: exit codes, text and JSON."""

import json

import numpy as np
import pytest
from tests.support import smoothness_forensics as made

from assay.cli import main


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tracks")
    rng = np.random.default_rng(4)
    t = np.arange(made.SAMPLES) * made.STEP
    for name, tracks in (("relu", made.relu_tracks(rng, 2)), ("gp", made.gp_tracks(rng, 2))):
        noisy = tracks + 1e-3 * rng.standard_normal(tracks.shape)
        np.savetxt(folder / f"{name}.csv", np.c_[t, noisy.T], delimiter=",", header="time,x,y", comments="")
    (folder / "reference").mkdir()
    known = made.gp_tracks(rng, 40)
    np.savez(folder / "reference" / "r.npz", time=t, y=(known + 1e-3 * rng.standard_normal(known.shape)).T)
    return folder


def test_text_and_exit_codes(files, capsys):
    assert main(["forensics", str(files / "relu.csv")]) == 0  # whatever the verdict
    shown = " ".join(capsys.readouterr().out.split())
    for words in ("kink share", "kink energy", "noise", "p-value", "joint", "not neural networks", ": kinks (p = 0.01"):
        assert words in shown
    assert main(["forensics", str(files / "relu.csv"), "--fail-on-kinks", "--replicates", "19"]) == 1
    assert main(["forensics", str(files / "gp.csv"), "--fail-on-kinks", "--replicates", "19"]) == 0
    assert "no evidence of kinks" in capsys.readouterr().out


def test_json_with_references(files, capsys):
    assert main(["forensics", str(files / "relu.csv"), "--reference", str(files / "reference"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["format"], found["method"], found["verdict"]) == ("assay-forensics", "conformal", "kinks")
    assert found["step"] == pytest.approx(made.STEP)
    assert [each["name"] for each in found["tracks"]] == ["x", "y"]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["none.csv"], 3, "no such file"),
        (["relu.csv", "--reference", "none"], 3, "no such folder"),
        (["relu.csv", "--level", "2"], 2, "level"),
        (["relu.csv", "--time", "clock"], 2, "clock"),
        (["relu.csv", "--rate", "-1"], 2, "rate"),
        (["relu.csv", "--combination", "mean"], 2, "combination"),
    ],
)
def test_what_goes_wrong(files, monkeypatch, capsys, arguments, code, words):
    monkeypatch.chdir(files)
    assert main(["forensics", *arguments]) == code
    assert words in capsys.readouterr().err


def test_a_refusal_is_an_answer(files, capsys):
    file = files / "short.csv"
    file.write_text("x\n1\n2\n4\n")
    assert main(["forensics", str(file)]) == 0
    assert "refused: 3 samples are too few" in " ".join(capsys.readouterr().out.split())


def test_a_negative_seed_is_a_usage_error(files, capsys):
    assert main(["forensics", str(files / "relu.csv"), "--seed", "-1"]) == 2
    assert "seed" in capsys.readouterr().err
