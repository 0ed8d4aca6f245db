"""Selective retraining: continue training with the weights of some units frozen, beside the controls that judge it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any, Literal

import torch
from torch import Tensor, nn

from assay.attacks import Attack, attack_of, auto_epsilon
from assay.errors import UsageError
from assay.filtering.criticality import least_critical, robust_criticality
from assay.filtering.retraining.arms import Select, arms_of, chosen_units, names_undecided, needs_labels, weights_in
from assay.filtering.retraining.evaluation import correct_on, measures_of
from assay.filtering.retraining.labels import classes_of, filtered
from assay.filtering.retraining.result import Retraining, Run
from assay.filtering.retraining.splits import Bounds, Pair, Samples, Splits, splits_of
from assay.filtering.retraining.training import OptimizerFactory, Recipe, train_arm
from assay.filtering.units import Choice, Granularity, Unit, select_units
from assay.progress import Progress
from assay.subject import Subject


def retrain(
    model: nn.Module | Subject,
    train: Samples,
    validation: Samples,
    *,
    select: Select = "robust+antifragile",
    controls: bool = True,
    test: Samples | None = None,
    seeds: int | Sequence[int] = (0, 1, 2, 3, 4),
    epochs: int = 20,
    batch_size: int = 100,
    learning_rate: float = 1e-3,
    optimizer: str | OptimizerFactory = "adam",
    adversarial: float = 0.0,
    attack: str | Attack = "fgsm",
    epsilon: float | Literal["auto"] | None = "auto",
    labels: Mapping[str, str] | Any | None = None,
    criticality: bool = False,
    include: Choice | Sequence[Choice] = "weight",
    granularity: Granularity = "tensor",
    bounds: Bounds | Literal["auto"] = "auto",
    level: float = 0.95,
    keep: Sequence[str] = (),
    progress: Progress | None = None,
) -> Retraining:
    """Retrain only some units of a network from its present state, and compare with what any continuation would do.

    The published idea (Pravin, Martino, Nicosia, Ojha, Artificial Intelligence 327, 2024, 104060) is to retrain the
    robust and antifragile parameters alone. Tried with controls on small networks, it was never shown to be better than
    plain continuation, and sometimes worse (docs/retraining.md); so the controls run by default:

    - ``all``: every unit, plain continuation;
    - ``selective``: the chosen units;
    - ``complement``: the other ones;
    - ``random``: as many units drawn by the seed, of nearly the same number of weights (see `random_units`);
    - ``criticality``, if asked: as many units, those least robust-critical (Zhu et al., ICCV 2023).

    All arms start from the same weights with a fresh optimiser and take the same number of steps on the same batches in
    the same order. Weights of other units are frozen to the bit; biases, batch norm and what is in no unit are trained
    in every arm. Training mode while training, evaluation mode for attacks and for judging. Arms that train the same
    units are run once.

    Args:
        model: a classifier with logits (B, K); untouched, and its requires_grad flags play no part.
        train: inputs (N, ...) and labels (N,), or Data.
        validation: likewise; labels, epsilon and criticality come from these samples alone.
        select: class names joined by +, unit names, {unit name: whether}, or a function of a `Unit`. A unit whose
            class is ``undecided`` counts as the class its score alone falls in, unless ``undecided`` is among the
            names; without a score (labels given as a mapping), and if ``no-op`` or ``degenerate``, it is not chosen.
        controls: False runs the selective arm alone, which cannot say what caused a change.
        test: samples to judge on; None holds a random half of the validation samples back for it.
        seeds: of batches, dropout and the random arm; a number n stands for 0 to n - 1.
        epochs: passes over the training samples.
        batch_size: samples per step.
        learning_rate: of a named optimiser.
        optimizer: ``adam``, ``adamw``, ``sgd``, or a function from the trainable parameters to an optimiser.
        adversarial: share of each batch that is replaced by inputs attacked on the network as it then is.
        attack: ``fgsm``, ``pgd``, ``pgd-l2`` or a function, for labels, epsilon, and attacked batches. Every network is
            judged clean, under FGSM, PGD-10 and PGD-20 (PGD alone for ``pgd-l2``; under the function for a function).
        epsilon: size of the attack in units of the inputs; ``auto`` halves the checkpoint's accuracy on the validation
            samples; None for a function that has its own.
        labels: class of every unit by name, or a filtering result; None runs `assay.filtering.analyse` with the attack
            made once (static) and takes the adversarial scores, compressed reference, mean over filters.
        criticality: also run that arm.
        include: which parameters are units, as in `select_units`.
        granularity: ``tensor`` or ``channel``.
        bounds: legal range of inputs; ``auto`` takes that of the Subject or of the training data.
        level: of the intervals over seeds.
        keep: arms whose trained weights are kept in `Retraining.weights`.
        progress: called as progress(done, total, text).

    Returns:
        Accuracies of every arm and seed, and their paired differences. Grade: sampled.

    Raises:
        NumericalError: when training diverges, naming arm and seed, or no epsilon halves the accuracy.
        SubjectError: for a model or samples that cannot be used.
        UsageError: for settings that do not fit.

    Example:
        >>> import torch
        >>> x = torch.rand(60, 4, generator=torch.Generator().manual_seed(0))
        >>> found = retrain(
        ...     nn.Linear(4, 2),
        ...     (x, x.argmax(1) // 2),
        ...     (x, x.argmax(1) // 2),
        ...     select=["weight"],
        ...     epochs=1,
        ...     seeds=2,
        ...     epsilon=0.1,
        ... )
        >>> found.arms, found.steps, found.difference("selective", "all", "fgsm").same
        (('all', 'selective', 'complement', 'random'), 1, True)
    """
    seeds = _checked_seeds(seeds)
    _check(epochs, batch_size, learning_rate, adversarial, level)
    classes, given = needs_labels(select), labels is not None
    _check_keep(keep, controls, criticality)
    with torch.inference_mode(False):  # copies made in that mode could not be trained
        splits = splits_of(model, train, validation, test, bounds)
        units = select_units(splits.subject, include, granularity=granularity)
        size = _size_of(splits, attack, epsilon)
        function = attack_of(attack, epsilon=size)
        words, counted = {}, {}
        if classes:
            found = filtered(splits, attack, size, include, granularity) if labels is None else labels
            words, counted = classes_of(found)
            if names_undecided(select):
                counted = {}
        chosen = chosen_units(units, select, words | counted)
        rival = _least_critical(splits, units, chosen, function, include, granularity) if criticality else None
        recipe = Recipe(epochs, batch_size, learning_rate, optimizer, float(adversarial), function, splits.bounds)
        runs, before, weights = _run_all(
            splits, units, chosen, rival, recipe, measures_of(attack, size), seeds, controls, keep, progress
        )
        return Retraining(
            runs=runs,
            before=before,
            chosen=chosen,
            units={unit.name: weights_in(units, [unit.name]) for unit in units},
            labels=words if classes else None,
            counted=counted,
            select=select if isinstance(select, str) else "units chosen by the user",
            attack=attack if isinstance(attack, str) else getattr(attack, "__name__", type(attack).__name__),
            epsilon=size,
            adversarial=float(adversarial),
            level=level,
            warnings=tuple(_warnings(splits, units, chosen, words, counted, controls, given or not classes)),
            weights=weights,
        )


def _run_all(
    splits: Splits,
    units: Sequence[Unit],
    chosen: tuple[str, ...],
    rival: tuple[str, ...] | None,
    recipe: Recipe,
    measures: Mapping[str, Attack | None],
    seeds: Sequence[int],
    controls: bool,
    keep: Sequence[str],
    progress: Progress | None,
) -> tuple[tuple[Run, ...], dict[str, Any], dict[tuple[str, int], dict[str, Tensor]]]:
    subject = splits.subject
    before = correct_on(subject.model, splits.test, measures, splits.bounds, "before retraining")
    weights: dict[tuple[str, int], dict[str, Tensor]] = {}
    plan = {seed: arms_of(units, chosen, seed, controls=controls, rival=rival) for seed in seeds}
    total = sum(len({frozenset(names) for names in arms.values()}) for arms in plan.values())
    runs: list[Run] = []
    done = 0
    for seed, arms in plan.items():
        trained: dict[frozenset[str], Run] = {}
        for arm, names in arms.items():
            key = frozenset(names)
            first = trained.get(key)
            if first is None:
                network, steps = train_arm(subject.model, units, names, splits.train, recipe, seed, arm)
                correct = correct_on(network, splits.test, measures, splits.bounds, f"arm {arm}, seed {seed}")
                first = Run(arm, seed, names, weights_in(units, names), steps, correct)
                trained[key] = first
                alike = [other for other, theirs in arms.items() if frozenset(theirs) == key]
                for other in set(alike) & set(keep):
                    weights[other, seed] = _state(network, subject)
                done += 1
                if progress is not None:
                    progress(done, total, f"retraining, {arm}, seed {seed}")
                runs.append(first)
            else:
                runs.append(Run(arm, seed, names, first.weights, first.steps, first.correct, first.arm))
    order = {arm: index for index, arm in enumerate(plan[seeds[0]])}
    runs.sort(key=lambda run: order[run.arm])  # stable: seeds stay in order
    return tuple(runs), before, weights


def _state(network: nn.Module, subject: Subject) -> dict[str, Tensor]:
    """The state dict under the user's names, without the layer that preprocessing puts in front."""
    prefix = "" if subject.preprocessing.is_identity else "model."
    state = network.state_dict()
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def _size_of(splits: Splits, attack: str | Attack, epsilon: float | str | None) -> float | None:
    if isinstance(epsilon, str):
        if epsilon != "auto":
            raise UsageError(f"epsilon={epsilon!r} is no size.", where="epsilon", advice="Use a number or 'auto'.")
        x, y = splits.validation
        return auto_epsilon(splits.subject, x, y, attack, bounds=splits.bounds).epsilon
    if epsilon is not None and (isinstance(epsilon, bool) or not 0 <= epsilon < math.inf):
        raise UsageError(
            f"epsilon={epsilon!r} is no size.", where="epsilon", advice="Use a number that is not negative."
        )
    return epsilon


def _least_critical(
    splits: Splits,
    units: Sequence[Unit],
    chosen: Sequence[str],
    attack: Attack,
    include: Choice | Sequence[Choice],
    granularity: Granularity,
) -> tuple[str, ...]:
    if len(chosen) in (0, len(units)):  # nothing to rank
        return tuple(chosen)
    data = Pair(*splits.validation)
    found = robust_criticality(
        splits.subject,
        data,
        attack=attack,
        epsilon=None,
        bounds=splits.bounds,
        include=include,
        granularity=granularity,
    )
    return least_critical(found, len(chosen))


def _checked_seeds(seeds: int | Sequence[int]) -> tuple[int, ...]:
    single = isinstance(seeds, Integral) and not isinstance(seeds, bool)
    values = tuple(range(int(seeds))) if single else tuple(seeds) if isinstance(seeds, Sequence) else ()  # type: ignore[arg-type]
    whole = all(isinstance(seed, Integral) and not isinstance(seed, bool) and seed >= 0 for seed in values)
    if not values or not whole or len(set(values)) < len(values):
        raise UsageError(
            f"seeds={seeds!r} cannot be used.",
            where="seeds",
            advice="Give different whole numbers from 0, or how many.",
        )
    return tuple(int(seed) for seed in values)


def _check(epochs: int, batch_size: int, learning_rate: float, adversarial: float, level: float) -> None:
    whole = all(isinstance(value, Integral) and value >= 1 for value in (epochs, batch_size))
    if not (whole and 0 < learning_rate < math.inf and 0 <= adversarial <= 1 and 0 < level < 1):
        raise UsageError(
            f"epochs={epochs}, batch_size={batch_size}, learning_rate={learning_rate}, adversarial={adversarial}, "
            f"level={level} cannot be used.",
            where="retrain",
            advice="Whole epochs and batch_size from 1, a positive learning rate, a share from 0 to 1, 0 < level < 1.",
        )


def _check_keep(keep: Sequence[str], controls: bool, criticality: bool) -> None:
    known = arms_of((), (), 0, controls=controls, rival=() if criticality else None)
    unknown = [keep] if isinstance(keep, str) else [name for name in keep if name not in known]
    if unknown:
        raise UsageError(
            f"There is no arm {unknown[0]!r} to keep.",
            where="keep",
            advice=f"Give some of {', '.join(known)} as a tuple.",
        )


def _warnings(
    splits: Splits,
    units: Sequence[Unit],
    chosen: Sequence[str],
    labels: Mapping[str, str],
    counted: Mapping[str, str],
    controls: bool,
    given: bool,
) -> list[str]:
    found = list(splits.subject.warnings)
    if not chosen:
        found.append("No unit was chosen: the selective arm trains only biases and norms.")
    if len(chosen) == len(units):
        found.append("Every unit was chosen: the selective arm is plain continuation.")
    if not controls:
        found.append("Without controls a change cannot be put down to the choice of units.")
    if counted:
        shown = [f"{name} as {word}" for name, word in counted.items()]
        found.append(f"Classes left open by their intervals count by the score alone: {_some(shown)}.")
    open_classes = ("undecided", "no-op", "degenerate")
    left = [f"{name} ({word})" for name, word in labels.items() if word in open_classes and name not in chosen]
    left = [entry for entry in left if entry.rsplit(" (", 1)[0] not in counted]
    if left:
        found.append(f"Not chosen, having no class: {_some(left)}.")
    if splits.held_back:
        found.append(
            f"No test samples were given: a random half of the validation samples ({len(splits.test.y)}) was held back "
            f"to judge on.{' A choice made outside may know them.' if given else ''}"
        )
    return found


def _some(entries: Sequence[str], most: int = 8) -> str:
    return ", ".join(entries[:most]) + (f" and {len(entries) - most} more" if len(entries) > most else "")
