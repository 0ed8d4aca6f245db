"""The library as people import it: examples and annotations of every public name, and entry points others rely on."""

import ast
import doctest
import enum
import importlib
import inspect
import re
import typing
from collections.abc import Iterator
from importlib import resources
from types import ModuleType
from typing import Any

import numpy
import pytest
import torch
from tests.support.displays import labels, network, pictures, rows, subject, track
from torch import nn

import assay

WITHOUT_EXAMPLE = {
    "assay.boundary.analyse": "run by the example of assay.audit",
    "assay.filtering.examine": "run by the example of assay.audit",
    "assay.moments.analyse": "run by the example of assay.audit",
    "assay.sensitivity.analyse": "run by the example of assay.audit",
    "assay.smoothness.analyse": "run by the example of assay.audit",
    "assay.boundary.Detection": "made by Detector.examine",
    "assay.moments.LayerNoise": "a row of Moments.layers",
    "assay.norms.LayerNorm": "a row of layer_norms",
    "assay.smoothness.Kinks": "a part of Smp",
    "assay.conformance.check_analysis": "run by the tests of the example package",
    "assay.conformance.check_renderer": "run by the tests of the example package",
    "assay.boundary.plan": "the planning of an audit, shown by assay.audit.plan",
    "assay.filtering.plan": "the planning of an audit, shown by assay.audit.plan",
    "assay.moments.plan": "the planning of an audit, shown by assay.audit.plan",
    "assay.sensitivity.plan": "the planning of an audit, shown by assay.audit.plan",
    "assay.smoothness.plan": "the planning of an audit, shown by assay.audit.plan",
    "assay.filtering.too_long": "the planning of an audit",
    "assay.filtering.job_of": "a sweep for assay.sweep.run, which has an example of a job",
    "assay.covariance.LinearMap": "a protocol; MatrixMap is one",
    "assay.graph.Inexpressible": "an exception that conversions raise, for plug-ins",
    "assay.interpret.Domain": "a protocol; the example of forward is one",
    "assay.interpret.Tied": "a helper of domains",
    "assay.results.Better": "an annotation",
    "assay.results.result_of": "for authors of result classes; Displayed has the example",
    "assay.sweep.Job": "a protocol; the example of run is one",
    "assay.sweep.Outcome": "an annotation",
    "assay.sweep.Terminated": "an exception",
}


def packages() -> Iterator[ModuleType]:
    """assay and the packages it names, those with public names of their own."""
    yield assay
    for name in assay.__all__:
        each = getattr(assay, name)
        if inspect.ismodule(each) and hasattr(each, "__all__"):
            yield each
    yield importlib.import_module("assay.norms")


def public() -> dict[str, Any]:
    """Public functions and classes by dotted name, each under the first name it is met."""
    found: dict[str, Any] = {}
    met: set[int] = set()
    for package in packages():
        for name in package.__all__:
            each = getattr(package, name)
            if id(each) not in met and not inspect.ismodule(each) and (inspect.isclass(each) or callable(each)):
                met.add(id(each))
                found[f"{package.__name__}.{name}"] = each
    return found


PUBLIC = public()


def has_example(each: Any) -> bool:
    return bool(doctest.DocTestParser().get_examples(getattr(each, "__doc__", None) or ""))


def methods(each: type) -> Iterator[tuple[str, Any]]:
    """Public functions that a class defines itself."""
    for name, value in vars(each).items():
        function = inspect.unwrap(value.fget if isinstance(value, property) else getattr(value, "__func__", value))
        if inspect.isfunction(function) and not name.startswith("_") and function.__module__.startswith("assay"):
            yield name, function


def test_every_public_name_has_an_example_that_runs():
    """The default run collects the examples themselves (--doctest-modules)."""
    functions = [each for each in PUBLIC.values() if inspect.isroutine(each) and has_example(each)]
    made = {word for each in functions for word in re.findall(r"\w+", str(inspect.signature(each).return_annotation))}
    silent = {
        name
        for name, each in PUBLIC.items()
        if not has_example(each)
        and not (inspect.isclass(each) and (each.__name__ in made or any(has_example(f) for _, f in methods(each))))
        and not (inspect.isclass(each) and issubclass(each, tuple) and hasattr(each, "_fields"))
    }
    assert silent - WITHOUT_EXAMPLE.keys() == set()
    assert WITHOUT_EXAMPLE.keys() - silent == set(), "these have one by now, or are gone"


@pytest.mark.parametrize("name", [name for name, each in PUBLIC.items() if inspect.isroutine(each)])
def test_public_functions_are_annotated(name: str):
    assert unannotated(PUBLIC[name]) == []


@pytest.mark.parametrize("name", [name for name, each in PUBLIC.items() if inspect.isclass(each)])
def test_public_methods_are_annotated(name: str):
    if issubclass(PUBLIC[name], enum.Enum) or not PUBLIC[name].__module__.startswith("assay"):
        return
    bare = {f"{each}: {missing}" for each, function in methods(PUBLIC[name]) for missing in unannotated(function)}
    assert bare == set()


def unannotated(function: Any) -> list[str]:
    """Parameters without a type, and "return"."""
    signature = inspect.signature(function)
    bare = [
        name
        for name, parameter in signature.parameters.items()
        if parameter.annotation is parameter.empty and name not in ("self", "cls")
    ]
    return bare + (["return"] if signature.return_annotation is signature.empty else [])


def test_missing_annotations_are_seen():
    def partly(one: int, two, *rest: int, **more):
        return one

    assert unannotated(partly) == ["two", "more", "return"]


def test_names_for_type_checkers_are_those_that_are_imported():
    for package in packages():
        source = ast.parse(inspect.getsource(package))
        blocks = [
            node for node in source.body if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        ]
        typed = {
            alias.asname or alias.name
            for block in blocks
            for node in block.body
            if isinstance(node, ast.ImportFrom)
            for alias in node.names
        }
        if typed:
            modules = {name for name in package.__all__ if inspect.ismodule(getattr(package, name))}
            assert set(package.__all__) - modules - {"__version__"} <= typed, package.__name__


def test_the_marker_of_types_is_installed():
    assert resources.files("assay").joinpath("py.typed").is_file()


CONTRACT = {
    "load_subject": "spec, data, trust",
    "audit": "subject, only, out",
    "gaussian.relu_moments": "mean, std",
    "gaussian.relu_covariance": "mean1, std1, mean2, std2, rho",
    "moments.propagate": "model, mean, cov, method",
    "moments.flip_probability": "model, x, cov",
    "moments.sensitivity_map": "model, x, cov",
    "moments.confusion": "model, x, labels, cov",
    "moments.attack": "model, x",
    "sensitivity.operator_norm": "layer, input_shape, method",
    "sensitivity.condition_number": "model, x, kind",
    "sensitivity.bit_widths": "model, data, budget, formats",
    "filtering.masks": "weight, filter, n, domain, cover",
    "filtering.analyse": "model, data, attack",
    "filtering.retrain": "model, train, validation, select, controls",
    "boundary.boundary_point": "model, x, target",
    "boundary.curvature": "model, x, top",
    "boundary.connect": "model, x1, x2",
    "boundary.Detector.fit": "self, model, x_clean",
    "boundary.Detector.score": "self, x",
    "boundary.Detector.recover_labels": "self, x",
    "smoothness.smp": "model, path, estimator, outputs",
    "smoothness.smp_sampled": "y, step, form",
    "smoothness.Line": "a, b",
    "smoothness.forensics": "track, reference",
}
"""Entry points that outside code relies on: these parameters exist, and the positional ones come in this order."""


@pytest.mark.parametrize("name", CONTRACT)
def test_entry_points_keep_their_parameters(name: str):
    found: Any = assay
    for part in name.split("."):
        found = getattr(found, part)
    parameters = inspect.signature(found).parameters
    wanted = CONTRACT[name].split(", ")
    assert [each for each in parameters if each in wanted and each not in _keywords(parameters)] == [
        each for each in wanted if each not in _keywords(parameters)
    ]
    assert set(wanted) <= parameters.keys()


def _keywords(parameters: typing.Mapping[str, inspect.Parameter]) -> set[str]:
    return {name for name, parameter in parameters.items() if parameter.kind is parameter.KEYWORD_ONLY}


def test_results_of_entry_points_have_the_promised_attributes():
    x = rows()
    mean, variance = assay.gaussian.relu_moments(0.0, 1.0)
    assert float(mean) == pytest.approx(0.398942, abs=1e-5)
    assert float(variance) == pytest.approx(0.340845, abs=1e-5)
    for cov in (0.1, torch.full((6,), 0.1), 0.1 * torch.eye(6), assay.covariance.Diagonal(torch.full((5, 6), 0.1))):
        found = assay.moments.propagate(network(), x, cov)
        assert (found.mean.shape, found.covariance.shape, found.variance.shape) == ((5, 3), (5, 3, 3), (5, 3))
        assert isinstance(found.grade, assay.Grade)
    norm = assay.sensitivity.operator_norm(nn.Linear(3, 2), 3)
    assert norm.value <= norm.upper
    assert isinstance(norm.grade, assay.Grade)
    for kind in ("worst", "rms"):
        assert assay.sensitivity.condition_number(network(), x, kind=kind).shape == (5,)
    plan = assay.sensitivity.bit_widths(network(), rows(20), budget=6, formats=(4, 8))
    assert set(plan.bits) == {"0", "2"}
    assert plan.verified.samples == 20
    masks = assay.filtering.masks(torch.arange(6.0).reshape(2, 3), "high")
    assert (masks.shape, masks.dtype) == ((25, 2, 3), torch.bool)
    points = assay.boundary.boundary_point(network(), x)
    assert points.point.shape == x.shape
    assert points.label.shape == points.rival.shape == points.distance.shape == (5,)
    bent = assay.boundary.curvature(network(), points, top=2, estimator="frames", scale=0.5)
    assert bent.mean.shape == (5,)
    assert (bent.principal.diff(dim=1)[points.found] <= 0).all()
    assert bent.normal.shape == x.shape
    assert bent.directions.shape == (*bent.principal.shape, 6)
    joined = assay.boundary.connect(network(), x[:1], x[:1] + 1e-3)
    assert joined.connected.all()
    assert len(joined.path) == 1
    assert joined.checks.sampled.shape == (1,)


def test_the_detector_keeps_its_promise():
    detector = assay.boundary.Detector("logit_gap", probes=4, refine=False).fit(subject(), pictures(40))
    assert detector.score(pictures(3)).shape == (3,)
    assert detector.recover_labels(pictures(3)).shape == (3,)


def test_paths_and_tracks_keep_their_promise():
    line = assay.smoothness.Line(rows()[0], rows()[1])
    found = assay.smoothness.smp(network(), line)
    assert found.value.shape == (3,)
    assert found.kinks is not None
    assert set(found.by_layer)
    assert all(assay.smoothness.smp_sampled(track(), 0.05, form=form) >= 0 for form in ("mass", "height", "variation"))
    verdict = assay.smoothness.forensics(track(), step=0.05)
    assert 0 <= verdict.p_value <= 1
    assert 0 <= verdict.statistic <= 1
    assert isinstance(verdict.verdict, str)
    assert verdict.caveats


def test_filtering_keeps_its_promise():
    found = assay.filtering.analyse(
        subject(), (pictures(40), labels(40)), attack="fgsm", epsilon="auto", mode="static", n=5, draws=20
    )
    frame = found.to_frame()
    assert {"unit", "filter", "split", "reference", "score", "low", "high", "label"} <= set(frame.columns)
    assert set(frame["split"]) == {"clean", "adversarial", "difference"}
    assert numpy.isfinite(frame["score"]).all()
