"""SMP of a whole network before any path is walked, from the law of its input alone."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from assay.errors import NumericalError, SubjectError, UsageError
from assay.gaussian import KinkLaw, folded_mean
from assay.grade import Grade
from assay.graph import lower_max_pools
from assay.interpret import forward
from assay.smoothness.network import Network, Outputs
from assay.smoothness.prediction.adjoints import walk_back
from assay.smoothness.prediction.domain import KinkDomain
from assay.smoothness.prediction.laws import Element
from assay.smoothness.prediction.process import DENSE, Process
from assay.smoothness.prediction.result import LayerLaw, Prediction
from assay.smoothness.prediction.windows import Local, Observer
from assay.subject import Subject

_GAUSSIAN = "Pre-activations are taken to be Gaussian, and the switches of different layers independent."


def predict(model: nn.Module | Subject, process: Process, *, outputs: Outputs = None, width: int = DENSE) -> Prediction:
    """Expected SMP per unit of path along a stationary Gaussian path of inputs.

    Forwards, means and covariances of values and slopes go through every layer (arc-cosine kernels, orthant
    probabilities) and give the law of every unit's new kinks; backwards, means and second moments of the outputs'
    derivatives give the factor E|g| each kink is multiplied by. Good for random networks; in trained ones units are
    far from Gaussian, and `smp` measures.

    Args:
        model: module or Subject; in training mode it is seen as in evaluation mode.
        process: law of the input.
        outputs: all (None), one, several, or (outputs of the model, K) projections.
        width: widest tensor whose covariances are matrices (three of width^2 numbers while it is looked at, one per
            non-linearity after); wider ones keep variances only, as if their units were independent.

    Returns:
        The prediction.

    Raises:
        SubjectError: when the process does not fit the model.
        UnsupportedOperator: for operators whose kinks are not known.
        UsageError: for outputs the model does not have, or a width below 1.
        NumericalError: when a moment is not finite.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> model = nn.Sequential(nn.Linear(64, 64, bias=False), nn.ReLU(), nn.Linear(64, 1, bias=False))
        >>> found = predict(model, Process(torch.zeros(64), 1.0, 1.0))
        >>> list(found.by_layer), found.grade.value
        (['1 (relu)'], 'closed_form')
    """
    if width < 1:
        raise UsageError(f"A width of {width}.", where="width", advice="Use 1 or more.")
    if isinstance(model, Subject) and model.example.shape[1:] != process.mean.shape:
        raise SubjectError(
            f"The process has inputs {tuple(process.mean.shape)}, the model takes {tuple(model.example.shape[1:])}.",
            where="process",
            advice="Give the process the shape of one input.",
        )
    example = process.mean.detach().unsqueeze(0).expand(2, *process.mean.shape)
    network = Network.of(model, example, outputs)
    return predict_network(network, process, width=width)


def predict_network(network: Network, process: Process, *, width: int = DENSE) -> Prediction:
    """`predict` for a network that was captured before.

    Args:
        network: with the outputs that are asked for.
        process: law of the input.
        width: as in `predict`.

    Returns:
        The prediction.

    Raises:
        SubjectError: when the process does not fit the network.
        NumericalError: when a moment is not finite.
    """
    if network.shape != tuple(process.mean.shape):
        raise SubjectError(
            f"The process has inputs {tuple(process.mean.shape)}, the network takes {network.shape}.",
            where="process",
            advice="Give the process the shape of one input.",
        )
    lowered = lower_max_pools(network.graph)
    observer = Observer(network.graph, lowered)
    domain = KinkDomain(width, observer)
    mean = process.mean.detach().double().unsqueeze(0)
    start = domain.lift(lowered.input, mean, process.moments(dense=process.size <= width))
    with torch.no_grad():
        end = forward(lowered, domain, {lowered.input: start}, batch=1)
        return _collected(network, process, domain, observer, end)


def _collected(network: Network, process: Process, domain: KinkDomain, observer: Observer, end: Element) -> Prediction:
    seeds = torch.eye(end.size, dtype=torch.float64) if network.projection is None else network.projection
    kept = {name: local for name, local in observer.found.items() if bool((local.law.smp > 0).any())}
    readers = {local.reader for local in kept.values()}
    parts = {name: [] for name in kept}
    sizes: dict[str, list[Tensor]] = {name: [] for name in kept}
    errors, energies, random = [], [], False
    for seed in seeds.T:
        seen: dict[str, tuple[Tensor, Tensor]] = {}

        def visit(name: str, mean: Tensor, square: Tensor, seen: dict[str, tuple[Tensor, Tensor]] = seen) -> None:
            if name in readers:
                seen[name] = mean, square

        walk_back(domain.steps, end, seed, visit)
        error = energy = seed.new_zeros(())
        for name, local in kept.items():
            none = torch.zeros_like(local.law.smp)
            mean, square = seen.get(local.reader, (none, none))
            spread = (square - mean.square()).clamp(min=0)
            spread = torch.where(spread > 1e-12 * square, spread, none)
            random = random or bool((spread > 0).any())
            size = folded_mean(mean, spread.sqrt())
            parts[name].append((local.passed.smp * size).sum())
            sizes[name].append(size)
            energy = energy + (local.passed.energy * square).sum()
            error = error + (local.error * size).sum()
        errors.append(error)
        energies.append(energy)
    by_layer: dict[str, Tensor] = {}
    for name, local in kept.items():
        place = network.places.get(local.node.name, local.node.place)
        by_layer[place] = by_layer.get(place, 0) + torch.stack(parts[name])
    value = sum(by_layer.values(), seeds.new_zeros(seeds.shape[1]))
    if not bool(torch.isfinite(value).all()):
        raise NumericalError(
            "The prediction is not finite.", where="predict", advice="Check the weights and the process."
        )
    return Prediction(
        value,
        by_layer,
        torch.stack(energies),
        sum(float(local.passed.rate.sum()) for local in kept.values()),
        torch.stack(errors),
        _grade(process, domain, random=random),
        "Gaussian prediction",
        tuple(_layer(local, local.law, sizes[name]) for name, local in kept.items()),
        _notes(domain, observer),
    )


def _layer(local: Local, law: KinkLaw, sizes: list[Tensor]) -> LayerLaw:
    return LayerLaw(local.node.place, local.node.op, law.rate, law.smp, law.energy, torch.stack(sizes))


def _grade(process: Process, domain: KinkDomain, *, random: bool) -> Grade:
    if Grade.LINEARISED in domain.grades.values():
        return Grade.LINEARISED
    return Grade.STATISTICAL if domain.wide or random or process.grade is Grade.STATISTICAL else Grade.CLOSED_FORM


def _notes(domain: KinkDomain, observer: Observer) -> tuple[str, ...]:
    notes = [_GAUSSIAN]
    if observer.together:
        notes.append(
            f"{observer.together} units are copies or mirror images of others and kink together: all count, though "
            "they may cancel."
        )
    if domain.wide:
        notes.append(
            f"{len(domain.wide)} tensors are wider than {domain.width}: units count as independent, which is wrong "
            "for neighbouring pixels."
        )
    straight = [name for name, grade in domain.grades.items() if grade is Grade.LINEARISED]
    if straight:
        notes.append(f"{len(straight)} smooth nodes were replaced by their tangents: {', '.join(straight[:4])}.")
    return tuple(notes)
