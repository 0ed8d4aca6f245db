"""First-order errors of weight formats against Jacobian-vector products, and scores against what they predict."""

import numpy as np
import pytest
import torch
from tests.support.inputs import calls, close, numbers, seeded
from torch import Tensor, nn

from assay.errors import SubjectError, UsageError
from assay.graph import evaluate
from assay.load.demo import demo_data, demo_model
from assay.sensitivity.bits import scores
from assay.sensitivity.bits.joint import Joint
from assay.sensitivity.bits.layers import weight_layers
from assay.sensitivity.bits.linearised import first_order
from assay.sensitivity.bits.problem import Problem, calibrated_activations
from assay.sensitivity.bits.scores import METRICS, RIVALS, score
from assay.sensitivity.roundoff import IntegerFormat, as_format, prepared_graph
from assay.subject import Subject

FORMATS = (IntegerFormat(3), IntegerFormat(5, "channel"), as_format("bf16"))


def unit_seeds(outputs: Tensor, part: slice) -> Tensor:
    return torch.eye(outputs.shape[1], dtype=outputs.dtype)[:, None].expand(-1, len(outputs), -1)


class Attention(nn.Module):
    """Tokens through nn.MultiheadAttention, which flattens tokens and samples into one axis, tokens first."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.transpose(0, 1)
        return self.head(self.attention(tokens, tokens, tokens, need_weights=False)[0].mean(0))


def shared(self, x: Tensor) -> Tensor:
    return self.head(torch.relu(self.twice(torch.tanh(self.twice(x)))))


NETWORKS = {
    "dense": lambda: (seeded(lambda: nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3))), (5,)),
    "tokens": lambda: (
        seeded(lambda: nn.Sequential(nn.Linear(5, 4), nn.GELU(), nn.Flatten(), nn.Linear(12, 3))),
        (3, 5),
    ),
    "convolutions": lambda: (
        seeded(
            lambda: nn.Sequential(
                nn.Conv2d(2, 4, 3, padding=1),
                nn.BatchNorm2d(4),
                nn.ReLU(),
                nn.Conv2d(4, 6, 3, stride=2, groups=2),
                nn.MaxPool2d(2),
                nn.Flatten(),
                nn.Linear(6, 3),
            )
        ),
        (2, 6, 6),
    ),
    "transposed": lambda: (
        seeded(
            lambda: nn.Sequential(
                nn.Conv2d(2, 4, 2),
                nn.ReLU(),
                nn.ConvTranspose2d(4, 6, 2, stride=2, groups=2),
                nn.AdaptiveAvgPool2d(1),
                nn.Flatten(),
            )
        ),
        (2, 4, 4),
    ),
    "shared": lambda: (calls(shared, twice=nn.Linear(4, 4), head=nn.Linear(4, 2)), (4,)),
    "product": lambda: (
        calls(lambda self, x: torch.tanh(x @ self.w.weight) @ self.v.weight, w=nn.Linear(5, 4), v=nn.Linear(3, 5)),
        (4,),
    ),
    "attention": lambda: (seeded(Attention), (5, 4)),
}


def problem_of(network: nn.Module, x: Tensor, formats=FORMATS) -> Problem:
    return Problem(prepared_graph(Subject.from_model(network, x)), x, tuple(formats), {})


@pytest.mark.parametrize("name", NETWORKS)
def test_every_layer_and_format_is_a_jacobian_vector_product(name: str):
    network, shape = NETWORKS[name]()
    network = network.double()
    problem = problem_of(network, numbers(4, *shape))
    graph, x = problem.graph, problem.x
    found = first_order(graph, x, problem.layers, FORMATS, unit_seeds, problem.outputs_count)
    for layer, vectors in zip(problem.layers, found.weights, strict=True):
        for change, products in zip(layer.errors(FORMATS), vectors, strict=True):
            step = 1e-6
            up, down = (
                evaluate(graph, x, parameters={layer.parameter: layer.weight + sign * step * change})
                for sign in (1, -1)
            )
            torch.testing.assert_close(products, (up - down) / (2 * step), rtol=1e-5, atol=1e-8)
    assert sum(float(vectors.abs().sum()) for vectors in found.weights) > 0


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch):
    network, shape = NETWORKS["convolutions"]()
    problem = problem_of(network.double(), numbers(7, *shape))

    def run() -> Tensor:
        return torch.cat(first_order(problem.graph, problem.x, problem.layers, FORMATS, unit_seeds, 3).weights)

    whole = run()
    monkeypatch.setattr("assay.sensitivity.bits.linearised._BYTES", 20_000)
    close(run(), whole)


def test_channels_are_output_channels():
    """Rounding per channel equals rounding each output channel alone, also of a transposed convolution."""
    for name in ("convolutions", "transposed"):
        network, shape = NETWORKS[name]()
        for layer in problem_of(network, numbers(2, *shape).float()).layers:
            rounded = layer.rounded(IntegerFormat(4, "channel"))
            axis = 1 if layer.uses[0].op == "conv_transpose" else 0
            for channel in range(layer.weight.shape[axis]):
                alone = IntegerFormat(4).round(layer.weight.select(axis, channel))
                close(rounded.select(axis, channel), alone)


def test_layers_have_the_names_of_their_modules():
    graph = prepared_graph(Subject.from_model(demo_model(), demo_data().inputs[:4]))
    assert [layer.name for layer in weight_layers(graph)] == ["first", "second", "third", "head"]
    with pytest.raises(SubjectError, match="no dense or convolution"):
        problem_of(nn.Sequential(nn.ReLU()), torch.rand(2, 3)).layers  # noqa: B018


@pytest.fixture(scope="module")
def digits() -> Problem:
    return problem_of(demo_model(), demo_data().inputs[:40], [IntegerFormat(b) for b in range(3, 9)])


class TestScores:
    def test_first_order_error_beside_the_measured_one(self, digits: Problem):
        """Ratio predicted / measured per layer and format: 1 within 1 % from 5 bits, within a third below."""
        predicted = score(digits, "logit", directions=10).values.reshape(-1, 6)
        measured = score(digits, "measured_mse").values.reshape(-1, 6)
        ratio = predicted / measured
        assert ((ratio[:, :2] > 0.7) & (ratio[:, :2] < 1.35)).all()
        assert np.abs(np.median(ratio[:, 2:]) - 1) < 0.01
        assert np.abs(ratio[:, 2:] - 1).max() < 0.12

    def test_few_directions_keep_the_expectation(self, digits: Problem):
        exact = score(digits, "logit", directions=10).values
        sampled = [score(digits, "logit", directions=2, seed=seed).values for seed in range(20)]
        ratio = np.stack(sampled) / exact
        assert np.abs(ratio.mean(0) - 1).max() < 0.12
        assert 0.02 < ratio.std(0).mean() < 0.3

    def test_joint_prediction_of_whole_configurations(self, digits: Problem):
        """Errors added as vectors: closer to the real run than squares added up, in most of 20 configurations."""
        found = score(digits, "joint", directions=10)
        assert found.gram is not None
        close(torch.from_numpy(np.diag(found.gram).copy()), torch.from_numpy(found.values))
        joint = Joint(found.gram, digits.rows, np.zeros((1, len(digits.rows))))
        draws = np.random.RandomState(0)
        exact = digits.outputs()
        as_vectors, as_squares = [], []
        for _ in range(20):
            options = draws.randint(1, 6, 4)
            real = float((digits.outputs(options.tolist()) - exact).square().sum(1).mean())
            as_vectors.append(abs(np.log(joint.value(options) / real)))
            as_squares.append(abs(np.log(found.values[joint.starts + options].sum() / real)))
        assert np.median(as_vectors) < 0.1
        assert np.mean(np.array(as_vectors) < as_squares) >= 0.75

    def test_relative_error_is_that_of_the_layer_alone(self, digits: Problem):
        found = score(digits, "joint", directions=10)
        assert found.relative is not None
        exact = digits.outputs()
        for layer, place in ((0, 2), (2, 3), (3, 4)):
            target = digits.formats[place]
            weight = {digits.layers[layer].parameter: digits.layers[layer].rounded(target)}
            with torch.no_grad():
                change = evaluate(digits.graph, digits.x, parameters=weight) - exact
            measured = float(change.norm() / exact.norm())
            assert found.relative[layer * 6 + place] == pytest.approx(measured, rel=0.1)

    def test_divergence_is_second_order(self, digits: Problem):
        predicted = score(digits, "kl", directions=10).values.reshape(-1, 6)
        measured = score(digits, "measured_kl").values.reshape(-1, 6)
        assert np.abs(np.log(predicted[:, 3:] / measured[:, 3:])).max() < 0.5

    def test_margins_weigh_samples(self, digits: Problem):
        one = Problem(digits.graph, digits.x[:1].repeat(3, 1, 1, 1), digits.formats, {})
        outputs = one.outputs()
        margin = float(outputs[0].topk(2).values.diff().abs())
        ratio = score(one, "logit", directions=10).values / score(one, "margin", directions=10).values
        assert ratio == pytest.approx(np.full(24, margin**2), rel=1e-4)

    def test_rivals_by_their_definitions(self, digits: Problem):
        layer = digits.layers[3]
        change = layer.errors(digits.formats).double()
        squares = change.square().flatten(1).sum(1).numpy()
        assert score(digits, "weight_mse").values[18:] == pytest.approx(squares)
        relative = squares / float(layer.weight.double().square().sum())
        assert score(digits, "relative_weight").values[18:] == pytest.approx(relative, rel=1e-6)

        x = digits.x.double()
        graph = digits.graph

        def logits(weight: Tensor, sample: Tensor) -> Tensor:
            parameters = {name: value.double() for name, value in graph.parameters.items()}
            return evaluate(graph, sample[None], parameters={**parameters, layer.parameter: weight})[0]

        diagonal = torch.zeros_like(layer.weight, dtype=torch.float64)
        for sample in x:
            jacobian = torch.func.jacrev(logits)(layer.weight.double(), sample)  # (K, *weight)
            p = logits(layer.weight.double(), sample).softmax(0)[:, None, None]
            diagonal += ((p * jacobian.square()).sum(0) - (p * jacobian).sum(0).square()) / len(x)
        hessian, fisher = (score(digits, method).values[18:] for method in ("hessian", "fisher"))
        assert hessian == pytest.approx(float(diagonal.mean()) * squares, rel=1e-4)
        assert fisher == pytest.approx((change.square() * diagonal).flatten(1).sum(1).numpy(), rel=1e-4)

    def test_one_output_is_exact(self):
        found = score(problem_of(seeded(lambda: nn.Linear(4, 1)).double(), numbers(5, 4)), "joint")
        assert found.directions == 1

    def test_same_seed_same_scores(self, digits: Problem):
        first, again = score(digits, "joint", seed=3), score(digits, "joint", seed=3)
        assert first.directions < 10
        np.testing.assert_array_equal(first.values, again.values)

    def test_all_methods_run(self, digits: Problem):
        for method in (*METRICS, *RIVALS):
            found = score(digits, method)
            assert found.values.shape == (24,)
            assert (found.values >= 0).all()
            assert found.grade.value in ("linearised", "sampled")

    def test_errors(self, digits: Problem):
        with pytest.raises(UsageError, match="Unknown score"):
            score(digits, "guess")
        stored = calibrated_activations(digits.graph, digits.x, [IntegerFormat(8)])
        with pytest.raises(UsageError, match="weights only"):
            score(Problem(digits.graph, digits.x, digits.formats, stored), "hessian")
        with pytest.raises(UsageError, match="at least 2"):
            score(problem_of(seeded(lambda: nn.Linear(4, 1)), numbers(5, 4).float()), "margin")


def test_activations_are_predicted_with_the_weights(digits: Problem):
    """Rounding errors of activations as they are in the exact network, weights in 16 bits: beside a real run."""
    stored = calibrated_activations(digits.graph, digits.x, [IntegerFormat(5), IntegerFormat(8)])
    problem = Problem(digits.graph, digits.x, (IntegerFormat(16),), stored)
    assert [group.kind for group in problem.groups] == ["weights"] * 4 + ["activations"] * 5
    assert [group.name for group in problem.groups[4:]] == ["input", "first", "second", "third", "head"]
    found = score(problem, "joint", directions=10)
    assert found.gram is not None
    joint = Joint(found.gram, problem.rows, np.zeros((1, len(problem.rows))))
    exact = problem.outputs()
    for option in (0, 1):
        options = [0] * 4 + [option] * 5
        real = float((problem.outputs(options) - exact).square().sum(1).mean())
        assert joint.value(options) == pytest.approx(real, rel=0.25)


def test_directions_are_orthogonal_and_scaled():
    basis = scores._directions(5, 7, 3, torch.float64, 0)
    close(basis @ basis.mT, (7 / 3) * torch.eye(3, dtype=torch.float64).expand(5, 3, 3))
    assert not torch.equal(basis[0], basis[1])


class TestChanceCorrelations:
    """Products of error vectors of different layers are shrunk by the share of their size that is chance."""

    groups = np.repeat(np.arange(10), 3)

    def test_independent_errors_are_added_as_squares(self):
        factors = []
        for seed in range(20):
            vectors = numbers(30, 200, seed=seed)
            gram, factor = scores._gram(vectors, self.groups, 30)
            raw = (vectors @ vectors.T).numpy()
            assert gram[0, 29] == pytest.approx(factor * raw[0, 29])
            assert gram[0, 2] == raw[0, 2]
            factors.append(factor)
        assert np.mean(factors) < 0.1

    def test_common_errors_are_added_as_vectors(self):
        common = numbers(1, 200, seed=1)
        gram, factor = scores._gram(common + 0.05 * numbers(30, 200, seed=2), self.groups, 30)
        assert factor > 0.97
        assert gram[0, 29] == pytest.approx(gram[0, 0], rel=0.05)

    def test_predictions_from_few_observations_are_not_too_good(self, digits: Problem):
        """The least predicted error of many configurations is no smaller than what it turns out to be, by more than
        a tenth; without shrinking, choosing exploits chance."""
        few = Problem(digits.graph, digits.x[:6], digits.formats, {})
        found = score(few, "joint", directions=2)
        assert 0 < found.correlation < 0.9
        exact = score(few, "joint", directions=10)
        assert exact.correlation > found.correlation
        assert found.gram is not None
        joint = Joint(found.gram, few.rows, np.zeros((1, len(few.rows))))
        best = min((tuple(o) for o in np.random.RandomState(0).randint(1, 4, (200, 4))), key=joint.value)
        assert exact.gram is not None
        assert joint.value(best) > 0.5 * Joint(exact.gram, few.rows, joint.costs).value(best)

    def test_activations_have_none(self):
        gram, _ = scores._gram(numbers(1, 50).expand(30, 50), self.groups, 15)
        assert gram[0, 14] != 0
        assert gram[0, 15] == 0
        assert gram[15, 29] == 0
