"""Changes of the parameters: whose weights matter most, at worst and for random noise, and the truth beside."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from assay.grade import Grade
from assay.results import Better, Column, Finding, Quantity, Section, Status, Table
from assay.sensitivity.parameters import parameter_condition
from assay.sensitivity.parameters.response import adversarial_parameter_response, random_parameter_response
from assay.sensitivity.sections.section import Context, correlation

_SIZE = 1e-2
_AGREEMENT = 0.1
_BAND = "5th to 95th percentile over inputs"

_COLUMNS = (
    Column("node", "node", node=True),
    Column("place", "layer"),
    Column(
        "worst",
        "κ of the weights",
        "",
        Grade.LINEARISED,
        "Relative output change per relative change of these weights, in the direction that moves most; median.",
        lens="Condition number κ of the weights",
    ),
    Column("worst_high", "95 %", "", Grade.LINEARISED, "95th percentile over inputs."),
    Column(
        "rms",
        "κ rms",
        "",
        Grade.LINEARISED,
        "The same for independent noise of relative size 1 on every weight, root mean square; median.",
        lens="Condition number κ of the weights under noise",
    ),
)


def parameters(context: Context) -> Section:
    """Condition numbers of every layer's weights, against weights really changed."""
    x, seed = context.inputs[context.picked()], context.config.seed
    rms = parameter_condition(context.subject, x, kind="rms", samples=16 if context.large else 64, seed=seed)
    draws = 8 if context.large else 50
    noise = random_parameter_response(context.subject, x, (_SIZE,), draws=draws, seed=seed)
    over_noise = (rms.network / noise.amplification[:, 0]).numpy()
    arrays = {"parameter_condition_rms_by_input": rms.network.numpy()}
    summary = {
        "parameter_condition_rms": _quantity(
            rms.network.numpy(),
            Grade.LINEARISED,
            "κ rms of all weights under noise (median)",
            better="lower",
            basis="parameter_condition_rms_by_input.median",
        ),
        "parameter_noise_ratio": _quantity(
            over_noise,
            Grade.SAMPLED,
            f"predicted / measured response to weight noise of relative size {_SIZE:g} (median)",
        ),
    }
    reader = {name: node for node in context.graph for name in node.inputs if name is not None}
    records: list[dict[str, Any]] = [
        {"node": reader[name].name, "place": place, "rms": float(np.median(rms.by_parameter[:, i].numpy()))}
        for i, (name, place) in enumerate(zip(rms.names, rms.places, strict=True))
    ]
    if not context.large:  # a Jacobian norm per layer takes hundreds of passes
        summary |= _worst(context, x, records, arrays)
    table = Table.from_records(
        "parameters",
        "Changes of the weights",
        [column for column in _COLUMNS if any(column.name in record for record in records)],
        records,
        f"Over {len(x)} inputs, first order. A layer with a large number needs precise weights.",
    )
    key = "rms" if context.large else "worst"
    top = max(records, key=lambda record: record[key])
    how = "independent noise of 1 % on each" if context.large else "a relative change of 1 %"
    findings = (
        Finding(
            "sensitivity.most_sensitive_weights",
            Status.PASS,
            f"The weights that matter most are those of {top['place']}: {how} can change the output by "
            f"{top[key]:.2g} % (first order, median over {len(x)} inputs).",
            top["place"],
        ),
        _agreement(over_noise, correlation(rms.network.numpy(), noise.amplification[:, 0].numpy()), draws),
    )
    return Section({"parameters": table}, (), findings, summary, arrays=arrays)


def _worst(
    context: Context, x: Tensor, records: list[dict[str, Any]], arrays: dict[str, np.ndarray]
) -> dict[str, Quantity]:
    """Worst-case numbers into the records and arrays, and for the summary beside an attack on the weights."""
    seed = context.config.seed
    worst = parameter_condition(context.subject, x, kind="worst", seed=seed)
    attack = adversarial_parameter_response(context.subject, x, (_SIZE,), seed=seed)
    for record, values in zip(records, worst.by_parameter.numpy().T, strict=True):
        record |= {"worst": float(np.median(values)), "worst_high": float(np.quantile(values, 0.95))}
    arrays["parameter_condition_by_input"] = worst.network.numpy()
    return {
        "parameter_condition": _quantity(
            worst.network.numpy(),
            Grade.LINEARISED,
            "κ of all weights, each layer changed at worst (median)",
            better="lower",
            basis="parameter_condition_by_input.median",
        ),
        "parameter_attack_ratio": _quantity(
            (worst.network / attack.amplification[:, 0]).numpy(),
            Grade.SAMPLED,
            f"predicted / adversarial change of all weights by {_SIZE:g} each (median)",
        ),
    }


def _agreement(ratios: np.ndarray, related: float | None, draws: int) -> Finding:
    ratio = float(np.median(ratios))
    sentence = (
        f"The predicted response to weight noise of relative size {_SIZE:g} is {ratio:.3g} times the measured one "
        f"(median over {len(ratios)} inputs, {draws} draws"
        + (")." if related is None else f"; correlation over inputs {related:.3g}).")
    )
    if abs(ratio - 1) <= _AGREEMENT + 2 * (2 * draws) ** -0.5:
        return Finding("sensitivity.weight_noise", Status.PASS, sentence)
    return Finding(
        "sensitivity.weight_noise",
        Status.WARN,
        sentence,
        next_step="Do not rely on first-order numbers of the weights at this size; measure at the size you expect.",
    )


def _quantity(
    values: np.ndarray, grade: Grade, label: str, *, better: Better | None = None, basis: str = ""
) -> Quantity:
    low, middle, high = np.quantile(values, (0.05, 0.5, 0.95))
    return Quantity(float(middle), grade, "", label, float(low), float(high), _BAND, better, basis)
