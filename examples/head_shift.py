"""Case study: which layers make facial landmarks jitter while a head shifts, turns and comes closer, and what helps.

pip install --no-deps facenet-pytorch==2.6.0 scikit-image==0.26.0; npm pack @vladmandic/face-api@1.7.15
FACE_API=vladmandic-face-api-1.7.15.tgz python examples/head_shift.py --page docs/smoothness_results.md

Two networks see the same 112 x 112 pixels of a photo of 512 x 512 (scikit-image's astronaut): O-Net (five points,
examples/onet.py) and a network for 68 points (examples/face_landmarks.py; left out where FACE_API is not set). The head
moves by cubic-spline resampling of the photo, so that all kinks are the networks'. Lengths are pixels of the photo.
Without --page, the tables are printed. It takes some minutes on one core.
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cache
from importlib.metadata import distribution
from pathlib import Path

import face_landmarks
import numpy
import onet
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from assay.certified.prepared import bound_graph
from assay.smoothness import Line, Network, Smp, Transform, remedy, smp
from assay.smoothness.measure import Estimator
from assay.smoothness.remedies import rewritten

TOP, LEFT, CROP = 63, 168, 112
"""The face in the photo, in pixels."""
UNITS = {"translate": "pixel", "rotate": "degree", "scale": "percent"}
MEANT = ((*range(36, 42),), (*range(42, 48),), (30,), (48,), (54,))
"""Which of the 68 points lie where O-Net's five do; of an eye's six, the mean."""
LENGTH = 4.0
SAMPLES = 65
"""Points of a path for the estimator ``event``; the larger network gets a quarter of them."""


@dataclass(frozen=True, eq=False)
class Case:
    """A network, the picture that its window is cut from (3, H, W), and how its outputs become the five points.

    Attributes:
        name: for the tables.
        model: in float64, in evaluation mode.
        picture: in the model's units.
        window: (top, left, side) in pixels of the picture.
        points: (outputs, 10) x, y of five points in pixels of the photo.
        samples: points of a path.
    """

    name: str
    model: nn.Module
    picture: Tensor
    window: tuple[int, int, int]
    points: Tensor
    samples: int = SAMPLES

    @property
    def shrunk(self) -> float:
        """Pixels of the picture per pixel of the photo."""
        return self.window[2] / CROP

    def path(self, kind: str, start: float = 0.0, end: float = LENGTH) -> Transform:
        """The head moves to the right, turns or comes closer; the parameter is in `UNITS`."""
        top, left, side = self.window
        amount = {"translate": self.shrunk, "rotate": 1.0, "scale": 1.01}[kind]
        return Transform(self.picture, kind, amount, start=start, end=end, window=(top, left, side, side))

    def track(self, path: Transform, t: Tensor) -> Tensor:
        """The five points (n, 10) at parameters (n,)."""
        with torch.no_grad():
            parts = [self.model(path.at(some)[0]) @ self.points for some in t.split(64)]
        return torch.cat(parts)

    def measured(self, path: Transform | Line, samples: int | None = None, estimator: Estimator = "event") -> Smp:
        """SMP of x and y of the five points."""
        return smp(self.model, path, estimator=estimator, samples=samples or self.samples, outputs=self.points)


def photo() -> Image.Image:
    file = distribution("scikit-image").locate_file("skimage/data/astronaut.png")
    with Image.open(str(file)) as image:
        return image.convert("RGB")


def as_tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(numpy.asarray(image, dtype=numpy.float64)).permute(2, 0, 1)


def five_points() -> Case:
    """O-Net sees 48 x 48 pixels: the photo, shrunk with a low-pass filter to 3/7."""
    small = photo().resize((216, 216), Image.Resampling.LANCZOS, box=(0, 0, 504, 504))
    points = torch.eye(10, dtype=torch.float64) * CROP / onet.SIDE
    picture = (as_tensor(small) - 127.5) / 128
    return Case("O-Net", onet.landmarks().double(), picture, (TOP * 3 // 7, LEFT * 3 // 7, onet.SIDE), points)


def many_points() -> Case:
    """The network for 68 points sees 112 x 112 pixels: the photo as it is."""
    points = torch.zeros(68, 2, 5, 2, dtype=torch.float64)
    for place, members in enumerate(MEANT):
        for axis in range(2):
            points[list(members), axis, place, axis] = 1 / len(members)
    mean = torch.tensor(face_landmarks.MEAN, dtype=torch.float64).reshape(3, 1, 1)
    picture = (as_tensor(photo()) - mean) / 255
    model = face_landmarks.load().double()
    return Case("68 points", model, picture, (TOP, LEFT, CROP), points.reshape(136, 10), SAMPLES // 4 + 1)


class SoftPool(nn.Module):
    """In place of a max pool with a stride of 2: the mean of its windows, or a binomial filter around them (blur).

    The same as `remedy` puts there, as a module, because it is to be trained.
    """

    def __init__(self, kernel: int, change: str) -> None:
        super().__init__()
        binomial = {2: [1.0, 3.0, 3.0, 1.0], 3: [1.0, 2.0, 1.0]}[kernel]
        row = torch.tensor(binomial if change == "blur" else [1.0] * kernel)
        self.kernel = kernel
        self.register_buffer("weight", torch.outer(row, row)[None, None])

    def forward(self, x: Tensor) -> Tensor:
        taps, size, channels = self.weight.shape[-1], x.shape[-1], x.shape[1]
        before = (taps - self.kernel) // 2
        windows = -((self.kernel - size) // 2) + 1  # as with ceil_mode, the last one may reach over the edge
        after = 2 * (windows - 1) + taps - size - before
        edges = (before, after, before, after)
        inside = functional.conv2d(functional.pad(torch.ones_like(x[:1, :1]), edges), self.weight, stride=2)
        weight = self.weight.expand(channels, 1, -1, -1)
        return functional.conv2d(functional.pad(x, edges), weight, stride=2, groups=channels) / inside


def with_soft_pools(case: Case, change: str, which: Sequence[int]) -> Case:
    """O-Net with some of its three max pools replaced, weights as they were."""
    model = deepcopy(case.model)
    for place in which:
        setattr(model.trunk, f"pool{place}", SoftPool(2 if place == 3 else 3, change).double())
    return replace(case, model=model)


def imitating(case: Case, teacher: Case, steps: int) -> Case:
    """A network trained to answer as the teacher does, on other faces, which are turned, shifted, scaled and tinted.

    The faces are 100 grey ones of 25 x 25 pixels that come with scikit-image; the photo of the study is not shown.
    """
    file = str(distribution("scikit-image").locate_file("skimage/data/lfw_subset.npy"))
    faces = torch.from_numpy(numpy.load(file, allow_pickle=False)[:100]).float()
    student, judge = deepcopy(case.model).float().train(), deepcopy(teacher.model).float()
    draws = torch.Generator().manual_seed(0)
    optimiser = torch.optim.Adam(student.parameters(), 3e-4)
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = 3e-4 * (1 - step / steps)
        x = _varied(faces, 48, draws)
        with torch.no_grad():
            wanted = judge(x)
        loss = functional.mse_loss(student(x), wanted)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return replace(case, model=student.double().eval())


def _varied(faces: Tensor, count: int, draws: torch.Generator) -> Tensor:
    """Faces as O-Net's inputs: (count, 3, 48, 48)."""
    picked = faces[torch.randint(len(faces), (count,), generator=draws), None]
    angle, shrink, right, down, flip, gain = torch.rand(6, count, generator=draws)
    angle, shrink, right, down = 0.6 * angle - 0.3, 1 / (0.8 + 0.5 * shrink), 0.4 * right - 0.2, 0.4 * down - 0.2
    mirror = torch.where(flip < 0.5, -1.0, 1.0)
    across = torch.stack([angle.cos() * mirror, -angle.sin() * mirror, right], dim=1)
    along = torch.stack([angle.sin(), angle.cos(), down], dim=1)
    along[:, :2] *= shrink[:, None]
    across[:, :2] *= shrink[:, None]
    grid = functional.affine_grid(torch.stack([across, along], dim=1), [count, 1, 48, 48], align_corners=False)
    moved = functional.grid_sample(picked, grid, mode="bicubic", padding_mode="reflection", align_corners=False)
    tint = 1 + 0.25 * torch.randn(count, 3, 1, 1, generator=draws)
    offset = 0.15 * torch.randn(count, 3, 1, 1, generator=draws)
    lit = (moved * (0.6 + 0.8 * gain.reshape(-1, 1, 1, 1)) * tint + offset).clamp(0, 1)
    return (255 * lit - 127.5) / 128


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def spread(values: Tensor, digits: int = 2) -> str:
    """Mean of the ten coordinates, with the least and the most."""
    return f"{float(values.mean()):.{digits}f} ({float(values.min()):.{digits}f} to {float(values.max()):.{digits}f})"


def signed(share: Tensor | float) -> str:
    return f"{100 * float(share):+.2f} %"


def percent(share: Tensor | float) -> str:
    return f"{100 * float(share):.1f} %"


def apart(one: Tensor, other: Tensor) -> Tensor:
    """(n, 5) distances between points, as shares of the crop."""
    return (one - other).reshape(len(one), 5, 2).norm(dim=2) / CROP


def agreement(cases: Sequence[Case]) -> str:
    start = torch.zeros(1, dtype=torch.float64)
    tracks = [case.track(case.path("translate"), start) for case in cases]
    if len(tracks) < 2:
        return "Only one of the networks was there."
    gaps = apart(*tracks)[0]
    return table([*onet.POINTS, "mean"], [[percent(gap) for gap in (*gaps, gaps.mean())]])


def grouped(case: Case, found: Smp) -> dict[str, Tensor]:
    """Parts of SMP by layer; the sixteen ReLUs of the larger network by block."""
    parts: dict[str, Tensor] = {}
    for place, value in found.by_layer.items():
        block = re.match(r"blocks\.(\d)", place)
        name = f"ReLUs of block {block[1]}" if block else place.removeprefix("trunk.").replace(" (max_pool)", "")
        parts[name.replace(" (prelu)", "")] = parts.get(name.replace(" (prelu)", ""), torch.zeros(10)) + value
    return parts


def movements(found: dict[tuple[str, str], Smp], coarse: dict[tuple[str, str], Smp]) -> str:
    rows = []
    for (name, kind), result in found.items():
        gap = coarse[name, kind].value.sum() / result.value.sum() - 1
        numbers = [f"{result.density:,.0f}", spread(result.rate), str(result.samples), signed(gap)]
        rows.append([name, f"{kind}, per {UNITS[kind]}", *numbers])
    columns = [
        "network",
        "movement",
        "kinks",
        "SMP of a coordinate",
        "samples",
        "half as many: off by",
    ]
    return table(columns, rows)


def layers(cases: Sequence[Case], found: dict[tuple[str, str], Smp]) -> str:
    rows = []
    for case in cases:
        parts = {kind: grouped(case, found[case.name, kind]) for kind in UNITS}
        for place in parts["translate"]:
            shares = [parts[kind][place].sum() / found[case.name, kind].value.sum() for kind in UNITS]
            rows.append([case.name, place, *map(percent, shares)])
    return table(["network", "layer", *UNITS], rows)


def estimators(case: Case) -> str:
    """Event and sampled values against exact ones on a straight line between two crops, 0.04 of their pixels apart."""
    shift = 0.04 / case.shrunk
    line = Line(*case.path("translate").at(torch.tensor([0.0, shift], dtype=torch.float64))[0])
    exact = case.measured(line, estimator="exact_line")
    rate = 1 / shift**2  # slopes are per shift, and so is the sum of their jumps
    rows = [["exact_line", "", f"{exact.count:,.0f}", spread(exact.value * rate), ""]]
    for samples in (9, 33, 65):
        result = case.measured(line, samples)
        gaps = result.value / exact.value - 1
        rows.append(["event", str(samples), f"{result.count:,.0f}", spread(result.value * rate), worst(gaps)])
    t = torch.linspace(0, 1, 65, dtype=torch.float64)
    with torch.no_grad():
        outputs = case.model(line.at(t)[0]) @ case.points
    variation = (outputs[2:] - 2 * outputs[1:-1] + outputs[:-2]).abs().sum(0) * 64
    rows.append(["sum of second differences", "65", "", spread(variation * rate), worst(variation / exact.value - 1)])
    return table(["estimator", "samples", "kinks", "SMP per pixel", "off by (worst coordinate)"], rows)


def worst(gaps: Tensor) -> str:
    return f"{signed(gaps.mean())} ({signed(gaps[gaps.abs().argmax()])})"


def kac_rice(case: Case, found: dict[str, Smp], samples: int) -> str:
    rows = []
    for kind in UNITS:
        event, kernel = found[kind], case.measured(case.path(kind), samples, "kac_rice")
        gaps = kernel.value / event.value - 1
        total = kernel.value.sum() / event.value.sum() - 1
        rows.append([kind, str(kernel.samples), spread(event.rate), spread(kernel.rate), signed(total), worst(gaps)])
    return table(["movement", "samples", "event", "kernel Kac-Rice", "sum off by", "coordinates off by (worst)"], rows)


def pools(case: Case, steps: int) -> tuple[str, list[Case]]:
    """O-Net with other pools: what is to be expected from the network as it is, and what is measured."""
    path = case.path("translate")
    rows, kept = [], []
    for change in ("average", "blur"):
        for which in ((1,), (2,), (3,), (1, 2, 3)):
            places = [f"trunk.pool{place}" for place in which]
            found = remedy(case.model, path, change, layers=places, outputs=case.points, samples=SAMPLES // 2 + 1)
            if not rows:
                rows.append(["as published", "", "", spread(found.before.rate), "", "", ""])
            other = with_soft_pools(case, change, which)
            whole = found.before.value.sum()
            expected = [signed(found.removed.sum() / whole - 1), signed(found.predicted.sum() / whole - 1)]
            name = f"{'all' if len(which) > 1 else f'pool{which[0]}'} to {change}"
            measured = [spread(found.after.rate), signed(found.measured.sum() / whole - 1)]
            rows.append([name, *expected, *measured, *moved(case, other)])
            if len(which) > 1:
                kept.append(replace(other, name=f"O-Net, {name}"))
    if steps:
        taught = replace(imitating(kept[-1], case, steps), name="O-Net, all to blur, trained")
        after = taught.measured(path, SAMPLES // 2 + 1)
        measured = [spread(after.rate), signed(after.value.sum() / whole - 1)]
        rows.append([f"all to blur, then {steps} steps of training", "", "", *measured, *moved(case, taught)])
        kept.append(taught)
    columns = ["pools", "kinks taken away", "predicted", "SMP per pixel", "measured", "landmarks move", "at most"]
    return table(columns, rows), kept


def moved(case: Case, other: Case) -> list[str]:
    """Mean and largest distance between the landmarks of two networks on five poses of each movement."""
    gaps = torch.stack([apart(*(one.track(one.path(kind), POSES) for one in (case, other))) for kind in UNITS])
    return [percent(gaps.mean()), percent(gaps.max())]


POSES = torch.linspace(0, LENGTH, 5, dtype=torch.float64)
FRAME = 0.05
"""Shift per frame of the slowest head, in pixels."""
STRIDES = (1, 4, 20)
SPEEDS = tuple(f"{FRAME * stride:g} px a frame" for stride in STRIDES)


def steady(reach: float) -> Tensor:
    """Shifts of a head that moves by `FRAME` in every frame, from -reach to reach."""
    return torch.arange(-reach, reach + FRAME / 2, FRAME, dtype=torch.float64).clamp(-reach, reach)


def bends(track: Tensor) -> Tensor:
    """Mean square second difference of a track (n, K) at every speed of `STRIDES`, (speeds, K)."""
    parts = [track[::stride] for stride in STRIDES]
    return torch.stack([(part[2:] - 2 * part[1:-1] + part[:-2]).square().mean(0) for part in parts])


def jitter(cases: Sequence[Case]) -> str:
    """Second differences of the tracks of a head that shifts steadily: all of them are errors of the network."""
    rows = []
    t = steady(8.0)
    truth = torch.tensor([1.0, 0.0], dtype=torch.float64).repeat(5)
    for case in cases:
        path = case.path("translate", float(t[0]), float(t[-1]))
        track = case.track(path, t)
        seen = bends(track).mean(1)
        steps = FRAME * torch.tensor(STRIDES, dtype=torch.float64)
        kinks = (
            2 / 3 * case.measured(path, SAMPLES // 2 + 1).energy.mean() * steps**3
        )  # mean square, of kinks with signs of their own
        cells = [
            [f"{float((a / 6).sqrt()):.4f}", f"{float((b / a).sqrt()):.2f}"] for a, b in zip(seen, kinks, strict=True)
        ]
        wander = (track - track.mean(0) - t[:, None] * truth).square().mean().sqrt()
        rows.append([case.name, *(cell for pair in cells for cell in pair), f"{float(wander):.2f}"])
    columns = ["network", *(cell for speed in SPEEDS for cell in (speed, "kinks alone")), "off the true motion"]
    return table(columns, rows)


class Softened(nn.Module):
    """A network with softplus, log(1 + exp(b z)) / b, in place of every max(z, 0)."""

    def __init__(self, model: nn.Module, example: Tensor, sharpness: float) -> None:
        super().__init__()
        graph = rewritten(bound_graph(model, example), "softplus", sharpness)
        self.network = Network.from_graph(graph, tuple(example.shape[1:]), None)

    def forward(self, x: Tensor) -> Tensor:
        return self.network.values(x)


def activations(cases: Sequence[Case]) -> str:
    """Jitter without any kinks from activations: what stays of it, and how far the landmarks move for it."""
    rows = []
    t = steady(4.0)
    for case in cases:
        path = case.path("translate", float(t[0]), float(t[-1]))
        before = bends(case.track(path, t)).mean(1)
        for sharpness in (5.0, 10.0, 30.0):
            other = replace(case, model=Softened(case.model, path.at(t[:2])[0], sharpness))
            left = (bends(other.track(path, t)).mean(1) / before).sqrt()
            rows.append([case.name, f"{sharpness:g}", *map(percent, left), *moved(case, other)])
    columns = ["network", "sharpness", *(f"jitter left at {speed}" for speed in SPEEDS), "landmarks move", "at most"]
    return table(columns, rows)


def summary(found: dict[tuple[str, str], Smp], cases: Sequence[Case]) -> str:
    lines = []
    for case in cases:
        shift = found[case.name, "translate"]
        parts = grouped(case, shift)
        first = sorted(parts, key=lambda place: -float(parts[place].sum()))[:3]
        shares = ", ".join(f"{place} {percent(parts[place].sum() / shift.value.sum())}" for place in first)
        lines.append(
            f"- **{case.name}**: {shift.density:,.0f} kinks per pixel of shift; SMP of a coordinate "
            f"{float(shift.rate.mean()):.1f} per pixel, {float(shift.mean_size.mean()):.5f} per kink. "
            f"Most of it comes from {shares}."
        )
    return "\n".join(lines)


def figure(cases: Sequence[Case], found: dict[tuple[str, str], Smp], file: Path) -> None:
    """The tip of the nose while the head shifts by two pixels, and parts of SMP by layer."""
    from matplotlib import pyplot

    drawn, axes = pyplot.subplots(1, 1 + len(cases), figsize=(3.6 * (1 + len(cases)), 3.0), layout="constrained")
    t = torch.arange(0, 2.001, 0.01, dtype=torch.float64)
    for case in cases:
        x = case.track(case.path("translate"), t)[:, 4]
        axes[0].plot(t, x - x[0] - t, linewidth=1.0, label=case.name)
    axes[0].set(xlabel="shift of the head (pixels)", ylabel="tip of the nose, x less shift (pixels)")
    axes[0].legend(frameon=False, fontsize=8)
    for axis, case in zip(axes[1:], cases, strict=True):
        parts = grouped(case, found[case.name, "translate"])
        rates = [float(part.mean()) / LENGTH for part in parts.values()]
        axis.barh(list(parts), rates, color=["tab:red" if "pool" in place else "tab:blue" for place in parts])
        axis.invert_yaxis()
        axis.tick_params(labelsize=8)
        axis.set(xlabel="SMP per pixel", title=case.name)
    drawn.savefig(file, dpi=110)
    pyplot.close(drawn)


def filled(page: str, name: str, text: str) -> str:
    """The page with what stands between <!-- begin NAME --> and <!-- end NAME --> replaced."""
    begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
    before, _, rest = page.partition(begin)
    _, found, after = rest.partition(end)
    if not found:
        raise SystemExit(f"The page has no place {begin} ... {end}.")
    return f"{before}{begin}\n\n{text}\n\n{end}{after}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--page", type=Path, help="Markdown page whose tables are to be replaced")
    parser.add_argument("--figure", type=Path, help="PNG file for the figure")
    parser.add_argument("--only", nargs="*", help="names of tables; all by default")
    parser.add_argument("--training", type=int, default=400, help="steps of training of the blurred network; 0: none")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)

    five = five_points()
    cases = [five, *([many_points()] if os.environ.get("FACE_API") else [])]
    keys = [(case, kind) for case in cases for kind in UNITS]

    @cache
    def found() -> dict[tuple[str, str], Smp]:
        return {(case.name, kind): measure(case, kind, case.samples) for case, kind in keys}

    @cache
    def coarse() -> dict[tuple[str, str], Smp]:
        return {(case.name, kind): measure(case, kind, case.samples // 2 + 1) for case, kind in keys}

    @cache
    def measure(case: Case, kind: str, samples: int) -> Smp:
        return case.measured(case.path(kind), samples)

    @cache
    def softer() -> tuple[str, list[Case]]:
        return pools(five, chosen.training)

    tables: dict[str, Callable[[], str]] = {
        "agreement": lambda: agreement(cases),
        "estimators": lambda: estimators(five),
        "kac_rice": lambda: kac_rice(five, {kind: measure(five, kind, SAMPLES) for kind in UNITS}, 129),
        "pools": lambda: softer()[0],
        "jitter": lambda: jitter([*cases, *softer()[1]]),
        "activations": lambda: activations(cases),
        "movements": lambda: movements(found(), coarse()),
        "layers": lambda: layers(cases, found()),
        "summary": lambda: summary(found(), cases),
    }
    for name in chosen.only or tables:
        text = tables[name]()
        print(f"{name}\n\n{text}\n", flush=True)
        if chosen.page:
            page = filled(chosen.page.read_text(encoding="utf-8"), name, text)
            chosen.page.write_text(page, encoding="utf-8")
    if chosen.figure:
        figure(cases, found(), chosen.figure)


if __name__ == "__main__":
    main()
