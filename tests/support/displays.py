"""One object of every class that displays itself, made by public functions on the built-in network."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import nn

import assay
from assay import attacks, boundary, certified, filtering, moments, norms, sensitivity, smoothness
from assay.attacks.target import target_of
from assay.boundary.detection import Detector
from assay.boundary.subspaces.nearest import RestrictedPoints
from assay.probe import Probe
from assay.results import Audit
from assay.sensitivity.bits.verify import Verified
from assay.sensitivity.bounds import chain_conditions
from assay.sensitivity.jacobian import JacobianOperator
from assay.sensitivity.parameters import random_parameter_response


@cache
def subject() -> assay.Subject:
    return assay.load_subject("demo", data="demo")


def pictures(count: int = 4) -> torch.Tensor:
    data = subject().data
    assert data is not None
    return data.inputs[:count]


def labels(count: int = 4) -> torch.Tensor:
    data = subject().data
    assert data is not None
    assert data.targets is not None
    return data.targets[:count]


@cache
def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))


def rows(count: int = 5) -> torch.Tensor:
    return torch.randn(count, 6, generator=torch.Generator().manual_seed(0))


@cache
def points() -> boundary.BoundaryPoint:
    return boundary.boundary_point(subject(), pictures())


@cache
def curvature() -> boundary.Curvature:
    return boundary.curvature(subject(), points(), top=3, estimator="frames", scale=0.3, probes=8)


@cache
def swept() -> filtering.FilteringResult:
    return filtering.analyse(subject(), (pictures(40), labels(40)), n=5, mode="static", draws=50)


@cache
def scored() -> filtering.Labelled:
    return filtering.labelled({unit: swept().score(unit) for unit in swept().units})


@cache
def path() -> smoothness.Line:
    return smoothness.Line(rows()[0], rows()[1])


@cache
def kinks() -> smoothness.Smp:
    return smoothness.smp(network(), path())


@cache
def predicted() -> Any:
    return smoothness.predict(network(), smoothness.Process.from_path(path()))


@cache
def detector() -> Detector:
    return Detector("smoothed_margin", probes=4, refine=False).fit(subject(), pictures(40))


def track() -> torch.Tensor:
    t = torch.linspace(0, 20, 400, dtype=torch.float64)
    noise = torch.randn(400, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return (t % 2 - 1).abs() + 0.3 * torch.sin(t) + 1e-3 * noise


def first_unit() -> str:
    return swept().units[0]


MAKERS: dict[str, Callable[[], Any]] = {
    "Moments": lambda: moments.propagate(subject(), pictures(), 0.01),
    "Decision": lambda: moments.flip_probability(subject(), pictures(), 0.01),
    "Confusion": lambda: moments.confusion(subject(), pictures(12), labels(12), 0.01),
    "Probabilities": lambda: moments.expected_probabilities(subject(), pictures(), 0.01),
    "NoiseLevels": lambda: moments.noise_level(network(), rows()),
    "SensitivityMap": lambda: moments.sensitivity_map(subject(), pictures(2), 0.01),
    "GaussianAttack": lambda: moments.attack(network(), rows(), mean_bound=0.5, std_bound=0.5, steps=3, draws=50),
    "AutoEpsilon": lambda: attacks.auto_epsilon(subject(), pictures(40), labels(40)),
    "Fooled": lambda: attacks.fooled(target_of(subject()), pictures(), labels()),
    "Response": lambda: attacks.largest_response(
        subject().probe, pictures(), torch.full((4,), 0.1).double(), torch.randn(4, 2, 1, 8, 8), steps=3
    ),
    "CertifiedBall": lambda: certified.certified_ball(network(), rows(), 0.01),
    "CertifiedRadius": lambda: certified.certified_radius(network(), rows()),
    "LipschitzBound": lambda: certified.lipschitz_bound(network(), example=rows()),
    "OperatorNorm": lambda: norms.operator_norm(nn.Conv2d(2, 3, 3), (2, 8, 8)),
    "LargestSingular": lambda: norms.largest_singular(_matrices()),
    "LayerNorms": lambda: norms.layer_norms(network(), example=rows()),
    "LayerNorm": lambda: MAKERS["LayerNorms"]()[0],
    "ConditionNumbers": lambda: sensitivity.condition_numbers(subject(), pictures()),
    "RandomResponse": lambda: sensitivity.random_response(subject(), pictures(), (1e-3, 1e-1), directions=10),
    "AdversarialResponse": lambda: sensitivity.adversarial_response(network(), rows(), (1e-3, 1e-1)),
    "ParameterCondition": lambda: sensitivity.parameter_condition(subject(), pictures()),
    "ParameterResponse": lambda: random_parameter_response(network(), rows(), (1e-3, 1e-1)),
    "Ladder": lambda: sensitivity.ladder(network(), rows()),
    "ChainConditions": lambda: chain_conditions(network(), rows()),
    "Plan": lambda: sensitivity.bit_widths(network(), rows(20), budget=6),
    "Verified": lambda: Verified(0.9, 0.1, 0.2, 0.8, 0.85, 20),
    "MinimalBits": lambda: sensitivity.minimal_bits(subject(), pictures()),
    "RoundoffError": lambda: sensitivity.roundoff_error(subject(), pictures(), sensitivity.Precision("fp16")),
    "BoundaryPoint": points,
    "SegmentCertificate": lambda: boundary.certify_segment(network(), rows(), rows() + 0.01),
    "Connection": lambda: boundary.connect(subject(), *_bent()),
    "ClassSlice": lambda: boundary.class_slice(subject(), pictures(3), resolution=21),
    "Curvature": curvature,
    "SecondOrderCheck": lambda: curvature().second_order_check(),
    "Plateau": lambda: boundary.scale_sweep(subject(), points(), probes=4),
    "SampledFlips": lambda: boundary.sampled_flips(subject(), pictures(), 0.2, samples=50),
    "FlipEstimate": lambda: boundary.flip_probability_of(subject(), points(), 0.1, scale=0.3, estimator="frames"),
    "Asymmetry": lambda: boundary.asymmetry(subject(), points(), scale=0.3, estimator="frames", probes=4),
    "RelativeCurvature": lambda: boundary.relative_curvature(
        subject(), points(), torch.eye(64)[:3].reshape(3, 1, 8, 8), scale=0.3, estimator="frames", probes=4
    ),
    "SharedDirections": lambda: boundary.shared_directions(network(), rows(20), scale=0.3, estimator="frames"),
    "SemiRandom": lambda: boundary.semi_random(network(), rows(), dimensions=(2, 4), draws=2),
    "SubspaceNoise": lambda: boundary.subspace_noise(
        network(), rows(), {"edge": torch.eye(6)[:2]}, dimension=2, draws=9
    ),
    "RestrictedPoints": lambda: RestrictedPoints(rows(3), torch.tensor([1.0, 2.0, 3.0]), torch.ones(3).bool()),
    "Profile": lambda: boundary.profile(network(), rows(), scale=0.3, estimator="frames"),
    "Detection": lambda: detector().examine(pictures(20)),
    "Evaluations": lambda: boundary.evaluate(detector(), pictures(20), {"moved": boundary.Tampered(pictures() + 0.3)}),
    "Evaluation": lambda: MAKERS["Evaluations"]()[0],
    "Evasion": lambda: boundary.evade(detector(), pictures(), labels(), epsilon=0.5, steps=1),
    "FilteringResult": swept,
    "UnitScores": lambda: swept().scores[swept().attack, first_unit()],
    "Labelled": scored,
    "Comparison": lambda: filtering.compare({"one": scored(), "other": scored()}),
    "early.Decision": lambda: filtering.decide(swept().static[first_unit()], swept().baseline, split="clean"),
    "Gain": lambda: next(iter(swept().gains().values())),
    "DistinctMasks": lambda: filtering.distinct_masks(torch.linspace(-1, 1, 12), n=5),
    "Variants": lambda: swept().variants[first_unit()],
    "Criticalities": lambda: filtering.robust_criticality(network(), (rows(20), _decided()), epsilon=0.1, steps=1),
    "Criticality": lambda: MAKERS["Criticalities"]()[0],
    "Retraining": lambda: filtering.retrain(
        network(), (rows(40), _decided(40)), (rows(20), _decided()), seeds=2, epochs=1, select=["0.weight"]
    ),
    "Smp": kinks,
    "Kinks": lambda: kinks().kinks,
    "SampledSmp": lambda: smoothness.sampled(track(), 0.05),
    "Prediction": predicted,
    "Agreements": lambda: smoothness.agreement(predicted(), kinks()),
    "Agreement": lambda: MAKERS["Agreements"]()[0],
    "LayerIndices": lambda: smoothness.layer_indices(subject(), pictures(40), labels(40)),
    "LayerIndex": lambda: MAKERS["LayerIndices"]()[0],
    "Remedy": lambda: smoothness.remedy(network(), path(), "softplus"),
    "Forensics": lambda: smoothness.forensics(track(), step=0.05),
    "Audit": lambda: Audit({"name": "demo"}, {"filtering": swept().result()}, {"moments": "was not asked for"}),
}


def _decided(count: int = 20) -> torch.Tensor:
    return network()(rows(count)).argmax(1)


def _bent() -> tuple[torch.Tensor, torch.Tensor]:
    kinds = boundary.regimes(subject(), pictures(40), 3, bounds=(0.0, 1.0))
    return torch.cat([one for one, _ in kinds.values()]), torch.cat([other for _, other in kinds.values()])


def _matrices() -> JacobianOperator:
    return JacobianOperator(Probe(network()), rows())
