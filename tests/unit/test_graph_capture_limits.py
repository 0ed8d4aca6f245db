"""What capture refuses, with why and where; that it changes nothing of the user's; that its proof can fail."""

import copy
import inspect
import random
import warnings
from collections.abc import Callable
from typing import Any

import numpy
import pytest
import torch
import torch.nn.functional as F
from tests.support.inputs import calls, seeded
from torch import Tensor, nn

from assay.errors import CaptureError
from assay.graph import OPERATORS, capture, check, from_export

# Models that cannot be captured: each says why and where.


def test_a_branch_on_the_data_names_its_line():
    def forward(self: Any, x: Tensor) -> Tensor:
        if x.sum() > 0:
            return x
        return -x

    with pytest.raises(CaptureError, match="control flow depends on the values of the data") as raised:
        capture(calls(forward), torch.randn(2, 3))
    line = inspect.getsourcelines(forward)[1] + 1
    assert raised.value.where == f"{__file__}:{line}"
    assert raised.value.advice


def test_a_fixed_batch_size_is_refused():
    with pytest.raises(CaptureError, match="batch size only"):
        capture(calls(lambda self, x: x.view(2, -1)), torch.randn(2, 3, 4))


def test_a_batch_size_remembered_from_elsewhere_is_refused():
    with pytest.raises(CaptureError):
        capture(calls(lambda self, x: x + torch.zeros(2, 1)), torch.randn(2, 3))


@pytest.mark.parametrize(
    ("forward", "count"),
    [
        (lambda self, x: (x, 2 * x), 2),
        (lambda self, x: {"logits": x, "features": 2 * x}, 2),
        (lambda self, x: [x, x + 1, x], 3),
    ],
)
def test_several_outputs_are_refused(forward: Callable[..., Any], count: int):
    with pytest.raises(CaptureError, match=f"returns {count} values"):
        capture(calls(forward), torch.randn(2, 3))


def test_one_tensor_in_a_tuple_is_refused():
    with pytest.raises(CaptureError, match="tuple"):
        capture(calls(lambda self, x: (x,)), torch.randn(2, 3))


RANDOM = {
    "dropout": lambda self, x: F.dropout(x, 0.5, training=True),
    "feature dropout": lambda self, x: F.dropout2d(x[..., None, None], 0.5, training=True)[..., 0, 0],
    "alpha dropout": lambda self, x: F.alpha_dropout(x, 0.5, training=True),
    "dropout in place": lambda self, x: F.dropout(x + 1, 0.5, training=True, inplace=True),
    "rand": lambda self, x: x + torch.rand(3),
    "randn_like": lambda self, x: x + torch.randn_like(x),
    "bernoulli": lambda self, x: x * torch.bernoulli(torch.full((3,), 0.5)),
    "normal in place": lambda self, x: x + torch.empty(3).normal_(),
    "uniform in place": lambda self, x: x + torch.empty(3).uniform_(0, 1),
    "rrelu": lambda self, x: F.rrelu(x, training=True),
    "attention": lambda self, x: F.scaled_dot_product_attention(x[:, None], x[:, None], x[:, None], dropout_p=0.5)[
        :, 0
    ],
}


@pytest.mark.parametrize("forward", RANDOM.values(), ids=RANDOM)
def test_random_numbers_are_refused(forward: Callable[..., Any]):
    with pytest.raises(CaptureError, match="random numbers"):
        capture(calls(forward), torch.randn(2, 3))


@pytest.mark.parametrize(
    "model",
    [
        nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4, track_running_stats=False)),
        calls(lambda self, x: F.batch_norm(x, None, None, training=True)),
        calls(
            lambda self, x: F.batch_norm(x, self.mean, self.var, training=True), mean=torch.zeros(3), var=torch.ones(3)
        ),
    ],
    ids=["without running statistics", "functional", "functional, training"],
)
def test_batch_statistics_are_refused(model: nn.Module):
    with pytest.raises(CaptureError, match="statistics of the batch"):
        capture(model.eval(), torch.randn(2, 3))


def test_numbers_drawn_in_python_are_caught():
    with pytest.raises(CaptureError, match="differs from the model"):
        capture(calls(lambda self, x: x * random.random()), torch.randn(2, 3))


# Nothing of the user's changes.


def global_state() -> tuple[Any, ...]:
    numpy_state = numpy.random.get_state()
    return (
        torch.get_rng_state().tolist(),
        random.getstate(),
        numpy_state[1].tolist(),  # type: ignore[union-attr]
        torch.is_grad_enabled(),
        torch.get_default_dtype(),
        list(warnings.filters),
        torch.are_deterministic_algorithms_enabled(),
        torch.get_num_threads(),
    )


def fails(self: Any, x: Tensor) -> Tensor:
    random.random()
    numpy.random.rand()
    torch.rand(1)
    return self.layer(x) if self.layer(x).sum() > 0 else x


def passes(self: Any, x: Tensor) -> Tensor:
    random.random()
    numpy.random.rand()
    return torch.relu_(self.layer(x))


def writes(self: Any, x: Tensor) -> Tensor:
    self.counter += 1
    return passes(self, x) + x.mul_(2)


@pytest.mark.parametrize("forward", [fails, passes, writes], ids=lambda forward: forward.__name__)
@pytest.mark.parametrize("training", [False, True], ids=["eval", "training"])
def test_capture_leaves_no_trace(forward: Callable[..., Any], training: bool):
    model = calls(forward, layer=nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Dropout()))
    model.register_buffer("counter", torch.zeros(()))
    model.train(training)
    model.layer[1].eval()
    model.layer[0].weight.grad = torch.ones(3, 3)
    seen: list[int] = []
    model.layer[0].register_forward_hook(lambda *_: seen.append(1))
    x = torch.randn(2, 3)
    before, state, data = global_state(), copy.deepcopy(model.state_dict()), x.clone()
    flags = [module.training for module in model.modules()]
    needed = [p.requires_grad for p in model.parameters()]
    attributes = {name: set(vars(module)) for name, module in model.named_modules()}
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        inside = list(warnings.filters)
        if forward is fails:
            with pytest.raises(CaptureError):
                capture(model, x)
        else:
            capture(model, x)
        assert warnings.filters == inside
    assert not heard
    assert global_state() == before
    assert torch.equal(x, data)
    assert [module.training for module in model.modules()] == flags
    assert [p.requires_grad for p in model.parameters()] == needed
    assert torch.equal(model.layer[0].weight.grad, torch.ones(3, 3))
    assert {name: set(vars(module)) for name, module in model.named_modules()} == attributes
    assert len(model.layer[0]._forward_hooks) == 1
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name]), name
    assert type(model.counter) is Tensor


def test_what_a_model_remembers_is_no_trace_of_tracing():
    def forward(self: Any, x: Tensor) -> Tensor:
        self.steps = self.steps + 1
        return self.layer(x)

    model = calls(forward, layer=nn.Linear(3, 3), steps=0)
    capture(model, torch.randn(2, 3))
    assert isinstance(model.steps, int)


def test_the_default_type_stays():
    torch.set_default_dtype(torch.float64)
    try:
        graph = capture(
            nn.Sequential(nn.Linear(3, 2, dtype=torch.float32)).eval(), torch.randn(2, 3, dtype=torch.float32)
        )
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    assert graph[graph.output].spec.dtype == torch.float32


# The proof that graph and model agree can fail.


@pytest.mark.parametrize("op", ["conv", "batch_norm", "clip", "add", "adaptive_avg_pool", "reshape", "linear", "mul"])
def test_a_wrong_operator_is_named(op: str, monkeypatch: pytest.MonkeyPatch):
    model = calls(
        lambda self, x: self.head(self.pool(F.relu6(self.norm(self.conv(x)) + 1) * self.scale).flatten(1)),
        conv=nn.Conv2d(1, 2, 3),
        norm=nn.BatchNorm2d(2),
        pool=nn.AdaptiveAvgPool2d(1),
        head=nn.Linear(2, 3),
        scale=nn.Parameter(torch.rand(2, 1, 1) + 1),
    )
    row = OPERATORS[op]
    wrong = copy.copy(row)
    object.__setattr__(wrong, "evaluate", lambda *inputs, **attributes: 1.001 * row.evaluate(*inputs, **attributes))
    monkeypatch.setattr(check, "evaluate_node", changed_for(wrong))
    with pytest.raises(CaptureError, match=r"graph differs from the model by 0\.001") as raised:
        capture(model, torch.randn(2, 1, 6, 6))
    assert f"({op})" in raised.value.where


def changed_for(row: Any) -> Callable[..., Tensor]:
    """`evaluate_node` with one row of the table changed."""

    def evaluate_node(node: Any, inputs: Any, batch: int) -> Tensor:
        return (row if node.op == row.name else OPERATORS[node.op]).evaluate(*inputs, **node.resolved(batch))

    return evaluate_node


def test_a_size_frozen_by_mistake_is_found(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(from_export._Translator, "_size", lambda self, size: int(size))
    with pytest.raises((CaptureError, RuntimeError)):
        capture(calls(lambda self, x: x.reshape(x.shape[0], 2, 3).sum(1)), torch.randn(2, 6))


def test_an_unread_node_is_found(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(check._Lockstep, "run_node", lambda self, n: torch.fx.Interpreter.run_node(self, n))
    with pytest.raises(CaptureError, match="could not be compared"):
        capture(seeded(lambda: nn.Linear(3, 2)), torch.randn(2, 3))
