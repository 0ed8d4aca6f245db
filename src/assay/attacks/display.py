"""How what searches found is displayed: each as a small `Result`."""

from __future__ import annotations

from assay.attacks.deepfool import Fooled
from assay.attacks.epsilon import AutoEpsilon
from assay.attacks.response import Response
from assay.grade import Grade
from assay.results import Column, Quantity, Result, result_of
from assay.results.build import band, count, line, lines, maps, per_input, rows_of, share, table


@result_of.register
def _(shown: AutoEpsilon, rows: int | None) -> Result:
    tried = sorted(shown.tried)
    columns = [
        (Column("epsilon", "size of the attack", "units of the data", Grade.EXACT), [size for size, _ in tried]),
        (Column("accuracy", "accuracy", "share", Grade.SAMPLED), [accuracy for _, accuracy in tried]),
    ]
    drawn = [line("attacked", [accuracy for _, accuracy in tried])]
    drawn.append(line("not attacked", [shown.clean_accuracy] * len(tried), "dashed"))
    low, high = shown.bracket
    return Result(
        "epsilon",
        "Size of the attack",
        "Which size of attack takes the accuracy to the goal?",
        {
            "epsilon": Quantity(shown.epsilon, Grade.SAMPLED, "", "epsilon", low, high, "end of the bisection"),
            "clean": Quantity(shown.clean_accuracy, Grade.SAMPLED, "share", "accuracy without attack"),
            "attacked": Quantity(shown.adversarial_accuracy, Grade.SAMPLED, "share", "accuracy under attack"),
        },
        {"tried": table("tried", "Sizes tried", columns, rows)},
        figures=(
            lines(
                "Accuracy by size of the attack",
                "Every size that was tried, on the same samples.",
                [size for size, _ in tried],
                drawn,
                "epsilon, in units of the data",
                "accuracy",
            ),
        ),
    )


@result_of.register
def _(shown: Fooled, rows: int | None) -> Result:
    total = len(shown.found)
    columns = [
        rows_of(total),
        (Column("found", "decided otherwise"), shown.found),
        (Column("steps", "steps", "count"), shown.steps),
    ]
    figure, arrays = maps("Where the search ended", "The last points tried.", {"point": shown.point})
    steps = per_input("Steps", "Linear steps that DeepFool made.", "steps", {"steps": shown.steps})
    return Result(
        "fooled",
        "DeepFool",
        "Was a point that is decided otherwise found?",
        {
            "inputs": count(total, "inputs"),
            "found": share(shown.found, "decided otherwise", Grade.EXACT),
            "steps": band(shown.steps, "steps", Grade.EXACT, "count"),
        },
        {"inputs": table("inputs", "Inputs", columns, rows)},
        arrays,
        (steps, figure),
    )


@result_of.register
def _(shown: Response, rows: int | None) -> Result:
    size = shown.perturbation.flatten(1).double().norm(dim=1)
    columns = [
        rows_of(len(size)),
        (
            Column("change", "output change", "", Grade.SAMPLED, "Largest found: the worst case may be more."),
            shown.change,
        ),
        (Column("size", "input change", "", Grade.EXACT, "Its Euclidean norm."), size),
        (Column("start", "start that led there"), shown.start),
    ]
    figure, arrays = maps("The input changes", "Those that moved the outputs most.", {"change": shown.perturbation})
    largest = per_input(
        "Largest output change found", "A lower estimate of the worst case.", "output change", {"change": shown.change}
    )
    return Result(
        "response",
        "Largest response",
        "How far can a small change of the input move the outputs?",
        {
            "inputs": count(len(size), "inputs"),
            "change": band(shown.change, "largest output change found", Grade.SAMPLED),
            "size": band(size, "size of the input change", Grade.EXACT),
        },
        {"inputs": table("inputs", "Inputs", columns, rows)},
        arrays,
        (largest, figure),
    )
