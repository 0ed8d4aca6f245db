"""Blank a square at every place of a picture and watch the decision (Zeiler and Fergus 2014, section 4.2)."""

from collections.abc import Callable

import torch
from torch import Tensor

from assay.errors import SubjectError
from assay.grade import Grade
from assay.intervals import wilson
from assay.results import Column, Figure, Finding, Quantity, Result, Status, Table
from assay.subject import Subject
from assay_plugin_example.occlusion import OcclusionConfig

Progress = Callable[[int, int, str], None]


def plan(subject: Subject, config: OcclusionConfig) -> str:
    """What it will do, before it runs."""
    if subject.task != "classification" or subject.data is None or subject.data.inputs.dim() != 4:
        return "cannot run: it needs pictures (B, C, H, W) and a classifier"
    count, places = min(config.inputs, len(subject.data)), len(_places(subject, config))
    return f"{places} places of a square of {config.patch} pixels on {count} pictures: {count * (places + 1):,} passes"


def analyse(subject: Subject, config: OcclusionConfig | None = None, *, progress: Progress | None = None) -> Result:
    """Share of decisions that one blanked square flips, and how much probability it takes, by place."""
    config = config or OcclusionConfig()
    data = subject.data
    if data is None or data.inputs.dim() != 4 or subject.task != "classification":
        raise SubjectError(
            "Occlusion needs pictures (B, C, H, W) and a classifier.", where=subject.name, advice="Leave it out."
        )
    places = _places(subject, config)
    rows = torch.linspace(0, len(data) - 1, min(config.inputs, len(data)), dtype=torch.float64).round().long().unique()
    x = data.inputs[rows]
    blank = data.inputs.mean((0, 2, 3)).reshape(-1, 1, 1) if config.fill is None else config.fill
    before = subject.probe(x).double().softmax(1)
    decided = before.argmax(1)
    lost, flipped = [], []
    for done, (top, left) in enumerate(places):
        if progress is not None:
            progress(done, len(places), "blanking")
        covered = x.clone()
        covered[:, :, top : top + config.patch, left : left + config.patch] = blank
        after = subject.probe(covered).double().softmax(1)
        lost.append((before - after).gather(1, decided.unsqueeze(1)).squeeze(1))
        flipped.append(after.argmax(1) != decided)
    if progress is not None:
        progress(len(places), len(places), "done")
    return _result(config, places, torch.stack(lost), torch.stack(flipped))


def _places(subject: Subject, config: OcclusionConfig) -> list[tuple[int, int]]:
    """Upper left corners of the squares; the last ones end at the edge."""
    height, width = subject.example.shape[2:]

    def along(size: int) -> list[int]:
        last = max(size - config.patch, 0)
        return sorted({*range(0, last + 1, config.step), last})

    return [(top, left) for top in along(height) for left in along(width)]


def _result(config: OcclusionConfig, places: list[tuple[int, int]], lost: Tensor, flipped: Tensor) -> Result:
    """The result from probabilities lost and flips, both (places, pictures)."""
    loss, flips = lost.mean(1), flipped.double().mean(1)
    anywhere, count = flipped.any(0).double(), flipped.shape[1]
    share = float(anywhere.mean())
    low, high = wilson(share, count)
    worst = int(loss.argmax())
    place = f"row {places[worst][0]}, column {places[worst][1]}"
    columns = (
        Column("row", "row", "pixels", description="Upper edge of the blanked square."),
        Column("column", "column", "pixels", description="Left edge of the blanked square."),
        Column("loss", "probability lost", "", Grade.SAMPLED, "Mean over pictures, of the class decided before."),
        Column("flips", "flipped", "share", Grade.SAMPLED, "Share of pictures decided otherwise."),
    )
    cells = tuple((top, left, float(a), float(b)) for (top, left), a, b in zip(places, loss, flips, strict=True))
    maps = {name: values.reshape(len({top for top, _ in places}), -1).numpy() for name, values in
            (("loss", loss), ("flips", flips))}  # fmt: skip
    fine = share <= config.flips_above
    return Result(
        name="occlusion",
        title="Occlusion",
        question="Which parts of a picture do the decisions hang on?",
        summary={
            "flips": Quantity(
                share, Grade.SAMPLED, "share", "pictures that some square flips", low, high, "95 % Wilson"
            ),
            "largest_loss": Quantity(float(loss[worst]), Grade.SAMPLED, "", "most probability that one place takes"),
            "inputs": Quantity(count, Grade.EXACT, "", "pictures"),
        },
        tables={"places": Table("places", "Blanked squares", columns, cells, f"Squares of {config.patch} pixels.")},
        arrays=maps,
        figures=(
            Figure(
                "heatmaps",
                "What blanking takes away",
                "One cell per place of the square. Where it is bright, decisions hang on that part of the picture.",
                {"panels": [{"title": "probability lost", "array": "loss"}, {"title": "flipped", "array": "flips"}]},
            ),
        ),
        findings=(
            Finding(
                "occlusion.flips",
                Status.PASS if fine else Status.WARN,
                f"One blanked square of {config.patch} pixels flips {share:.0%} of {count} decisions (sampled, 95 % "
                f"interval {low:.0%} to {high:.0%}); most is lost at {place}.",
                place=place,
                next_step="" if fine else "Train with random erasing, or look at what the network sees there.",
            ),
        ),
    )
