"""Condition number from every layer to the output: how much a relative change of that layer's activations matters."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from assay.errors import CaptureError
from assay.grade import Grade
from assay.graph import BatchSize, Node, evaluate
from assay.results import Column, Finding, Status, Table
from assay.subject import Subject

_ALL_OUTPUTS = 64
_FOLLOWED = 10
_BYTES = 1_000_000_000


def layer_conditions(subject: Subject, x: Tensor) -> tuple[list[Node], Tensor]:
    """Local condition numbers ||d f / d z|| ||z|| / ||f|| of every layer's activations z.

    Up to 64 outputs the Jacobian norm is that of all outputs, above of the ten largest. Cost: one forward pass with its
    activations kept, and one reverse pass per output followed; memory: as many copies of the activations as outputs.

    Args:
        subject: captured model.
        x: (B, ...) inputs.

    Returns:
        The layers, and condition numbers (B, layers), NaN where the output is 0. Grade: linearised.

    Raises:
        CaptureError: when the model cannot be captured.
    """
    graph = subject.graph
    layers = [node for node in graph.layers if _per_sample(node) and node.name != graph.output]
    if not layers:
        return [], torch.empty(len(x), 0, dtype=torch.float64)
    per_sample = sum(node.spec.size_per_sample for node in layers) * x.element_size() * _FOLLOWED
    parts = [_conditions(subject, part, layers) for part in x.split(max(1, int(_BYTES / max(per_sample, 1))))]
    return layers, torch.cat(parts)


def _per_sample(node: Node) -> bool:
    """Floating point, with the batch as the first axis."""
    return node.spec.dtype.is_floating_point and node.spec.shape[:1] == (BatchSize(),)


def _conditions(subject: Subject, x: Tensor, layers: Sequence[Node]) -> Tensor:
    kept: dict[str, Tensor] = {}
    with torch.enable_grad():
        outputs = evaluate(
            subject.graph, x.detach().requires_grad_(True), observe=lambda node, value: kept.update({node.name: value})
        )
        count = outputs.shape[1]
        followed = (
            torch.arange(count).expand(len(x), -1) if count <= _ALL_OUTPUTS else outputs.topk(_FOLLOWED, dim=1).indices
        )
        seeds = torch.nn.functional.one_hot(followed, count).to(outputs.dtype).transpose(0, 1)
        values = [kept[node.name] for node in layers]
        rows = torch.autograd.grad(outputs, values, seeds, is_grads_batched=True, allow_unused=True)
    size = outputs.detach().double().norm(dim=1)
    columns = []
    for value, row in zip(values, rows, strict=True):
        if row is None:
            columns.append(torch.full((len(x),), torch.nan, dtype=torch.float64))
            continue
        flat = row.detach().double().flatten(2).transpose(0, 1)  # (B, m, n)
        norm = torch.linalg.eigvalsh(flat @ flat.mT)[:, -1].clamp(min=0).sqrt()
        columns.append(torch.where(size > 0, norm * value.detach().double().flatten(1).norm(dim=1) / size, torch.nan))
    return torch.stack(columns, 1)


def layer_report(subject: Subject, x: Tensor) -> tuple[Table, Finding] | None:
    """Table of layers and a finding on the most sensitive one; None when the model cannot be captured."""
    try:
        layers, values = layer_conditions(subject, x)
    except CaptureError:
        return None
    if not layers:
        return None
    middle, high = values.nanmedian(0).values, values.nan_to_num(0).quantile(0.95, dim=0)
    keep = [i for i in range(len(layers)) if bool(torch.isfinite(middle[i]))]
    columns = [
        Column("node", "node", node=True),
        Column("place", "layer"),
        Column(
            "condition",
            "κ from here",
            "",
            Grade.LINEARISED,
            "relative output change per relative change of this layer, worst direction, median",
            lens="Condition number κ from here to the output",
        ),
        Column("condition_high", "95 %", "", Grade.LINEARISED, "95th percentile over inputs"),
        Column(
            "bits",
            "bits lost",
            "bit",
            Grade.LINEARISED,
            "log2 of the median: bits of relative precision lost from here on",
        ),
    ]
    records = [
        {
            "node": layers[i].name,
            "place": layers[i].place,
            "condition": float(middle[i]),
            "condition_high": float(high[i]),
            "bits": float(middle[i].clamp(min=1e-12).log2()),
        }
        for i in keep
    ]
    table = Table.from_records(
        "layers",
        "From each layer to the output",
        columns,
        records,
        f"Local condition number of the network behind each layer, over {len(x)} inputs.",
    )
    if not keep:
        return None
    worst = max(keep, key=lambda i: float(middle[i]))
    sentence = (
        f"The layer whose activations need most precision is {layers[worst].place}: a relative error there is "
        f"amplified up to "
        f"{float(middle[worst]):.2g}-fold at the output (median over {len(x)} inputs, linearised)."
    )
    return table, Finding("sensitivity.most_sensitive_layer", Status.PASS, sentence, layers[worst].place)
