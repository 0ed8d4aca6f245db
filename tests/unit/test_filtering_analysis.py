"""The filtering analysis against a plain loop over copies of the network, and what it promises about the model."""

from __future__ import annotations

import copy
from functools import lru_cache

import numpy as np
import pytest
import torch
from tests.support.networks import digits
from torch import Tensor, nn

from assay.attacks import fgsm, pgd
from assay.errors import NumericalError, SubjectError, UsageError
from assay.filtering import FilteringConfig, analyse, masks, quadrature

FILTERS = ("high", "low", "pulse")


@lru_cache(maxsize=1)
def digits_cnn() -> tuple[nn.Sequential, Tensor, Tensor]:
    """The plain CNN (conv 8-16-16, fc 32-10) after a few epochs on digits, and 200 samples it has not seen."""
    x, y = digits()
    x = x.reshape(-1, 1, 8, 8)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64, 32), nn.ReLU(),
            nn.Linear(32, 10),
        )  # fmt: skip
        optimiser = torch.optim.Adam(network.parameters(), 2e-3)
        for _ in range(8):
            for rows in torch.randperm(1300).split(64):
                optimiser.zero_grad()
                nn.functional.cross_entropy(network(x[rows]), y[rows]).backward()
                optimiser.step()
    return network.eval(), x[1400:1600], y[1400:1600]


def plain_loop(network: nn.Module, name: str, x: Tensor, y: Tensor, n: int, epsilon: float, adaptive: bool):
    """Correct decisions (filters, n, N) on clean and attacked data, by copying the network for every threshold."""
    clean, attacked = [], []
    bounds = (0.0, 1.0)
    static = fgsm(network, x, y, epsilon=epsilon, bounds=bounds)
    for filter in FILTERS:
        for mask in masks(network.get_parameter(name), filter, n):
            changed = copy.deepcopy(network)
            changed.get_parameter(name).data *= mask
            points = fgsm(changed, x, y, epsilon=epsilon, bounds=bounds) if adaptive else static
            with torch.no_grad():
                clean.append((changed(x).argmax(1) == y).numpy())
                attacked.append((changed(points).argmax(1) == y).numpy())
    shape = (3, n, len(x))
    return np.array(clean).reshape(shape), np.array(attacked).reshape(shape)


class TestAgainstAPlainLoop:
    @pytest.mark.parametrize("adaptive", [False, True])
    def test_counts_and_scores(self, adaptive: bool):
        network, x, y = digits_cnn()
        mode = "adaptive" if adaptive else "static"
        found = analyse(network, (x, y), n=5, epsilon=0.1, mode=mode, bounds=(0.0, 1.0), draws=50)
        recorded = found.adaptive if adaptive else found.static
        assert list(recorded) == [f"{place}.weight" for place in (0, 2, 5, 9, 11)]
        base = fgsm(network, x, y, epsilon=0.1, bounds=(0.0, 1.0))
        level = {
            "clean": network(x).argmax(1).eq(y).double().mean(),
            "adversarial": network(base).argmax(1).eq(y).double().mean(),
        }
        for name in ("0.weight", "5.weight", "11.weight"):
            clean, attacked = plain_loop(network, name, x, y, 5, 0.1, adaptive)
            for index, filter in enumerate(FILTERS):
                assert np.array_equal(recorded[name][filter].clean, clean[index])
                assert np.array_equal(recorded[name][filter].adversarial, attacked[index])
                weight = network.get_parameter(name)
                left = np.array([float(mask.double().mean()) for mask in masks(weight, filter, 5)])
                for split, values in (("clean", clean[index]), ("adversarial", attacked[index])):
                    p = values.mean(1) / float(level[split])
                    expected = quadrature(5) @ (p - left)
                    assert found.score(name, filter, split).score == pytest.approx(expected, abs=1e-12)
                    unfiltered = found.score(name, filter, split, "unfiltered").score
                    assert unfiltered == pytest.approx(quadrature(5) @ (p - 1), abs=1e-12)

    def test_two_by_two_network(self):
        network = nn.Sequential(nn.Linear(2, 2, bias=False)).eval()
        network[0].weight.data = torch.tensor([[2.0, -1.0], [-1.0, 1.0]])
        x, y = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]), torch.tensor([0, 1, 1])
        found = analyse(network, (x, y), n=3, epsilon=0.5, bounds=(0.0, 1.0), mode="static", draws=20)
        assert found.baseline.clean.tolist() == [True, True, False]
        assert found.baseline.adversarial is not None
        assert found.baseline.adversarial.sum() == 1
        clean, attacked = plain_loop(network, "0.weight", x, y, 3, 0.5, adaptive=False)
        for index, filter in enumerate(FILTERS):
            assert np.array_equal(found.static["0.weight"][filter].clean, clean[index])
            assert np.array_equal(found.static["0.weight"][filter].adversarial, attacked[index])
        assert any("Only 1 adversarial" in warning for warning in found.result().warnings)

    def test_engines_agree(self):
        network, x, y = digits_cnn()
        frames = [
            analyse(network, (x, y), n=5, epsilon=0.1, mode="both", engine=engine, draws=20).records()
            for engine in ("naive", "incremental", "batched", "auto")
        ]
        assert frames[0] == frames[1] == frames[2] == frames[3]

    def test_batch_size_changes_no_count(self):
        network, x, y = digits_cnn()
        frames = [
            analyse(network, (x[:60], y[:60]), n=3, epsilon=0.1, mode="both", batch_size=size, draws=20).records()
            for size in (1, 7, 60)
        ]
        assert frames[0] == frames[1] == frames[2]


class TestIdentities:
    def test_difference_is_the_difference(self):
        network, x, y = digits_cnn()
        found = analyse(network, (x, y), n=5, epsilon=0.1, mode="both", draws=20)
        for unit in found.units:
            for attack in ("static", "adaptive"):
                for reference in ("compressed", "unfiltered"):
                    clean, attacked, difference = (
                        found.score(unit, "low", split, reference, attack).score
                        for split in ("clean", "adversarial", "difference")
                    )
                    assert difference == pytest.approx(attacked - clean, abs=1e-12)

    def test_a_scaled_network_has_the_same_counts(self):
        network, x, y = digits_cnn()
        scaled = copy.deepcopy(network)
        scaled[0].weight.data *= 4
        scaled[0].bias.data *= 4
        scaled[2].weight.data /= 4
        first = analyse(network, (x, y), n=5, epsilon=0.1, mode="static", include=("0", "2"), draws=20)
        second = analyse(scaled, (x, y), n=5, epsilon=0.1, mode="static", include=("0", "2"), draws=20)
        for unit in first.units:
            for filter in FILTERS:
                assert np.array_equal(first.static[unit][filter].clean, second.static[unit][filter].clean)
                assert np.array_equal(first.static[unit][filter].adversarial, second.static[unit][filter].adversarial)

    def test_a_dead_unit_scores_exactly_what_is_removed(self):
        class Dead(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.used, self.dead = nn.Linear(4, 3), nn.Linear(4, 3)

            def forward(self, x: Tensor) -> Tensor:
                return self.used(x) + 0 * self.dead(x)

        torch.manual_seed(0)
        network, x = Dead().eval(), torch.randn(40, 4)
        y = network(x).argmax(1)
        y[::5] = (y[::5] + 1) % 3
        found = analyse(network, (x, y), include=("dead",), n=9, epsilon=0.2, mode="both", draws=20)
        for filter in FILTERS:
            density = found.variants["dead.weight"].density[filter]
            for attack in ("static", "adaptive"):
                assert found.score("dead.weight", filter, "clean", "unfiltered", attack).score == 0.0
                assert found.score("dead.weight", filter, "difference", attack=attack).score == 0.0
                value = found.score("dead.weight", filter, "adversarial", attack=attack).score
                assert value == pytest.approx(1 - quadrature(9) @ density, rel=1e-9)

    def test_mirrored_linear_network(self):
        torch.manual_seed(1)
        weight, x = torch.randn(5, 6), torch.randn(60, 6)
        y = (x @ weight.T).argmax(1)
        counts = {}
        for sign in (1, -1):
            network = nn.Sequential(nn.Linear(6, 5, bias=False))
            network[0].weight.data = sign * weight
            found = analyse(network, (sign * x, y), attack=None, n=7, draws=20)
            counts[sign] = {name: found.static["0.weight"][name].clean.sum(1).tolist() for name in FILTERS}
        assert counts[1]["high"] == counts[-1]["low"]
        assert counts[1]["low"] == counts[-1]["high"]

    def test_tied_weights_are_one_unit_filtered_in_both_places(self):
        class Tied(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.first, self.second = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
                self.second.weight = self.first.weight

            def forward(self, x: Tensor) -> Tensor:
                return self.second(torch.relu(self.first(x)))

        torch.manual_seed(0)
        network, x = Tied().eval(), torch.randn(50, 4)
        y = network(x).argmax(1)
        found = analyse(network, (x, y), attack=None, n=5, draws=20)
        assert found.units == ("first.weight",)
        for filter in FILTERS:
            for row, mask in enumerate(masks(network.first.weight, filter, 5)):
                weight = network.first.weight * mask
                decided = (torch.relu(x @ weight.T) @ weight.T).argmax(1) == y
                assert np.array_equal(found.static["first.weight"][filter].clean[row], decided.numpy())


class TestModelIsUntouched:
    def test_state_flags_and_gradients(self):
        network, x, y = digits_cnn()
        network = nn.Sequential(*copy.deepcopy(network)[:1], nn.BatchNorm2d(8), *copy.deepcopy(network)[1:]).train()
        network[0].weight.requires_grad_(False)
        before = copy.deepcopy(network.state_dict())
        flags = [parameter.requires_grad for parameter in network.parameters()]
        random = torch.get_rng_state()
        analyse(network, (x[:40], y[:40]), n=3, epsilon=0.05, mode="both", draws=10)
        assert network.training
        assert all(module.training for module in network.modules())
        assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
        assert [parameter.requires_grad for parameter in network.parameters()] == flags
        assert all(parameter.grad is None for parameter in network.parameters())
        assert torch.equal(torch.get_rng_state(), random)

    def test_also_after_an_error(self):
        network, x, y = digits_cnn()
        network = copy.deepcopy(network)
        before = copy.deepcopy(network.state_dict())

        def broken(outputs: Tensor, targets: Tensor) -> Tensor:
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            analyse(network, (x[:20], y[:20]), n=3, metric=broken, attack=None)
        assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


class TestOtherFiltersAndScopes:
    def test_global_scope_filters_all_layers_at_common_thresholds(self):
        network, x, y = digits_cnn()
        found = analyse(network, (x, y), n=5, attack=None, scope="global", draws=20)
        (name,) = found.units
        weights = [each for each_name, each in network.named_parameters() if each_name.endswith("weight")]
        limits = min(float(w.min()) for w in weights), max(float(w.max()) for w in weights)
        for filter in FILTERS:
            for row in range(5):
                changed = copy.deepcopy(network)
                for parameter in changed.parameters():
                    if parameter.dim() > 1:
                        parameter.data *= masks(parameter, filter, 5, limits=limits)[row]
                with torch.no_grad():
                    decided = changed(x).argmax(1) == y
                assert np.array_equal(found.static[name][filter].clean[row], decided.numpy())

    def test_channels(self):
        network, x, y = digits_cnn()
        found = analyse(network, (x, y), n=3, attack=None, include=("0",), granularity="channel", draws=20)
        assert len(found.units) == 8
        changed = copy.deepcopy(network)
        changed[0].weight.data[3] *= masks(network[0].weight[3], "low", 3)[1]
        with torch.no_grad():
            decided = changed(x).argmax(1) == y
        assert np.array_equal(found.static["0.weight[3]"]["low"].clean[1], decided.numpy())

    def test_replacements(self):
        network, x, y = digits_cnn()
        initial = {name: torch.zeros_like(each) for name, each in network.named_parameters()}
        both = ("rerandomise", "reinitialise")
        found = analyse(network, (x, y), n=3, attack=None, replacements=both, initial=initial, draws=20)
        recording = found.static["9.weight"]["reinitialise"]
        changed = copy.deepcopy(network)
        changed[9].weight.data.zero_()
        with torch.no_grad():
            decided = (changed(x).argmax(1) == y).numpy()
        assert np.array_equal(recording.clean, decided[None])
        score = found.score("9.weight", "reinitialise", "clean", "unfiltered").score
        assert score == pytest.approx(decided.mean() / found.baseline.clean.mean() - 1)
        assert found.static["9.weight"]["rerandomise"].clean.shape == (3, 200)
        again = analyse(network, (x, y), n=3, attack=None, replacements=both, initial=initial, draws=20)
        assert again.records() == found.records()

    def test_a_reinitialised_layer_needs_a_checkpoint(self):
        network, x, y = digits_cnn()
        with pytest.raises(UsageError, match="checkpoint"):
            analyse(network, (x, y), n=3, attack=None, replacements=("reinitialise",))

    def test_attacks_and_metrics_of_ones_own(self):
        network, x, y = digits_cnn()
        x, y = x[:50], y[:50]

        def noise(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
            return (x + 0.3).clamp(0, 1)

        def margin(outputs: Tensor, targets: Tensor) -> Tensor:
            return outputs.softmax(1).gather(1, targets[:, None])[:, 0]

        found = analyse(network, (x, y), n=3, attack=noise, metric=margin, mode="both", draws=20)
        expected = network((x + 0.3).clamp(0, 1)).softmax(1).gather(1, y[:, None])[:, 0]
        assert np.allclose(found.baseline.adversarial, expected.detach().double().numpy(), atol=1e-6)
        assert found.epsilon is None

    def test_pgd_is_an_attack(self):
        network, x, y = digits_cnn()
        x, y = x[:50], y[:50]
        found = analyse(network, (x, y), n=3, attack="pgd", attack_steps=3, epsilon=0.08, mode="adaptive", draws=20)
        changed = copy.deepcopy(network)
        changed[5].weight.data *= masks(network[5].weight, "high", 3)[1]
        points = pgd(changed, x, y, epsilon=0.08, steps=3)
        decided = (changed(points).argmax(1) == y).numpy()
        assert np.array_equal(found.adaptive["5.weight"]["high"].adversarial[1], decided)

    def test_regression(self):
        torch.manual_seed(0)
        network, x = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1)), torch.randn(40, 3)
        y = network(x).detach() + 0.1 * torch.randn(40, 1)
        found = analyse(network, (x, y), n=5, epsilon=0.1, mode="both", draws=20)
        changed = copy.deepcopy(network)
        changed[0].weight.data *= masks(network[0].weight, "high", 5)[2]
        error = (changed(x) - y).square().mean().item()
        p = found.baseline.clean.mean() / found.static["0.weight"]["high"].clean[2].mean()
        assert p == pytest.approx((network(x) - y).square().mean().item() / error, rel=1e-5)
        with pytest.raises(UsageError, match="epsilon"):
            analyse(network, (x, y), n=5)


class TestPresetAndScreen:
    def test_faithful_protocol(self):
        network, x, y = digits_cnn()
        found = analyse(network, (x[:60], y[:60]), faithful=True, epsilon=0.1, draws=20)
        assert (found.config.n, found.config.mode, found.config.normalise) == (25, "adaptive", "first")
        assert found.bounds is None
        assert any("two deviations" in note for note in found.notes)
        with pytest.raises(UsageError, match="faithful"):
            analyse(network, (x, y), faithful=True, n=11)

    def test_a_screen_attacks_anew_exactly_what_seems_antifragile(self):
        network, x, y = digits_cnn()
        screen = analyse(network, (x, y), n=9, epsilon=0.1, mode="screen", draws=50)
        full = analyse(network, (x, y), n=9, epsilon=0.1, mode="both", draws=50)
        chosen = {(unit, name) for unit in screen.adaptive for name in screen.adaptive[unit]}
        seeming = {
            (unit, name) for unit in full.units for name in FILTERS
            if full.score(unit, name, "difference", attack="static").score > 0.02
        }  # fmt: skip
        assert chosen == seeming
        assert 0 < len(chosen) < 15
        for unit, name in chosen:
            assert np.array_equal(screen.adaptive[unit][name].adversarial, full.adaptive[unit][name].adversarial)
            assert screen.score(unit, name, "difference", attack="adaptive") == full.score(
                unit, name, "difference", attack="adaptive"
            )

    def test_static_labels_promise_more_than_adaptive_ones(self):
        network, x, y = digits_cnn()
        found = analyse(network, (x, y), epsilon="auto", mode="both", draws=50)
        seeming = {
            attack: sum(
                found.score(unit, name, "difference", attack=attack).score > 0.02
                for unit in found.units
                for name in FILTERS
            )
            for attack in ("static", "adaptive")
        }
        assert seeming["static"] > seeming["adaptive"]


class TestBadInput:
    def test_no_sample_survives_the_attack(self):
        network, x, y = digits_cnn()
        with pytest.raises(NumericalError, match=r"smaller epsilon|exist"):
            analyse(network, (x[:20], y[:20]), n=3, epsilon=5.0, mode="static", bounds=None).scores  # noqa: B018

    def test_constant_weights_are_degenerate(self):
        network = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2))
        network[0].weight.data.fill_(0.5)
        x = torch.randn(30, 2)
        found = analyse(network, (x, network(x).argmax(1)), attack=None, n=3, draws=20)
        row = found.score("0.weight", "high", "clean")
        assert row.label == "degenerate"
        assert np.isnan(row.score)

    def test_zero_weights_are_no_operation(self):
        network = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2))
        network[0].weight.data = torch.tensor([[0.0, 0.0], [0.0, 1e-30]])
        network[0].weight.data[1, 1] = 0.0
        network[0].weight.data[0, 0] = -0.0
        x = torch.randn(30, 2)
        found = analyse(network, (x, network(x).argmax(1)), attack=None, n=3, draws=20)
        assert found.score("0.weight", "high", "clean").label in ("no-op", "degenerate")

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"n": 4}, "odd"),
            ({"mode": "sideways"}, "mode"),
            ({"epsilon": -1.0}, "epsilon"),
            ({"nonsense": 1}, "nonsense"),
            ({"include": ("nothing.here",)}, "nothing.here"),
            ({"attack": "cw"}, "attack"),
            ({"metric": "auc"}, "metric"),
        ],
    )
    def test_settings(self, settings: dict, message: str):
        network, x, y = digits_cnn()
        with pytest.raises(UsageError, match=message):
            analyse(network, (x, y), **settings)

    def test_data(self):
        network, x, y = digits_cnn()
        with pytest.raises(UsageError, match="no data"):
            analyse(network)
        with pytest.raises((UsageError, SubjectError)):
            analyse(network, (x, y[:10]))
        with pytest.raises(SubjectError):
            analyse(network, (x * float("nan"), y))

    def test_weights_that_are_computed(self):
        network = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 2)))
        with pytest.raises(SubjectError, match="computed"):
            analyse(network, (torch.randn(8, 4), torch.zeros(8, dtype=torch.long)))


def test_settings_of_scores_change_without_running():
    network, x, y = digits_cnn()
    found = analyse(network, (x, y), n=5, epsilon=0.1, mode="static", draws=50)
    wide = found.rescored(tau=5.0)
    assert set(wide.labels().values()) == {"robust"}
    assert wide.score("0.weight").score == found.score("0.weight").score
    with pytest.raises(UsageError, match="epsilon"):
        found.rescored(epsilon=0.2)


def test_the_report_section_is_complete():
    network, x, y = digits_cnn()
    found = analyse(network, (x, y), n=5, epsilon=0.1, mode="screen", draws=50)
    result = found.result()
    assert list(result.tables) == ["units", "scores", "gains"]
    assert [row[1] for row in result.tables["units"].rows] == list(found.units)
    assert all(row[0] for row in result.tables["units"].rows)  # nodes of the graph
    assert {finding.rule for finding in result.findings} == {
        "filtering.fragile_units", "filtering.decided", "filtering.gain", "filtering.no_op", "filtering.few_correct",
        "filtering.transfer",
    }  # fmt: skip
    assert result.summary["clean_accuracy"].value == pytest.approx(found.baseline.clean.mean())
    for index in range(len(result.figures)):
        assert result.plot(index) is not None
    assert "<" in result._repr_html_()


def test_configuration_of_the_command_line():
    assert FilteringConfig(faithful=True).ignore_bounds
    assert FilteringConfig().mode == "screen"


class TestClassesOnly:
    def test_classes_are_those_of_all_samples_and_take_fewer(self):
        network, x, y = digits_cnn()
        x, y = x.repeat(20, 1, 1, 1), y.repeat(20)
        settings = {"n": 5, "epsilon": 0.1, "mode": "static", "tau": 0.05, "inputs": 4000, "draws": 20}
        few = analyse(network, (x, y), classes_only=True, include=("0", "11"), **settings)
        full = analyse(network, (x, y), include=("0", "11"), **settings)
        for unit in full.units:
            for split in ("clean", "adversarial"):
                decision = few.decisions["static", unit]["mean", split]
                exact = full.score(unit, split=split).score
                expected = "fragile" if exact < -0.05 else "robust" if exact <= 0.05 else "antifragile"
                assert decision.label == expected
                assert decision.low - 1e-9 <= exact <= decision.high + 1e-9
        assert any(len(samples) < 2000 for samples in few.visited.values())
        assert few.labels("clean") == {unit: few.decisions["static", unit]["mean", "clean"].label for unit in few.units}
        assert few.result().tables["units"].rows

    def test_with_an_attack_made_anew(self):
        network, x, y = digits_cnn()
        settings = {"n": 3, "epsilon": 0.1, "mode": "adaptive", "include": ("11",), "draws": 20}
        few = analyse(network, (x, y), classes_only=True, **settings)
        full = analyse(network, (x, y), **settings)
        samples = few.visited["adaptive", "11.weight"]
        for filter in FILTERS:
            recorded = full.adaptive["11.weight"][filter]
            assert np.array_equal(few.adaptive["11.weight"][filter].adversarial, recorded.adversarial[:, samples])

    def test_screen_decides_filters_one_by_one(self):
        network, x, y = digits_cnn()
        x, y = x.repeat(8, 1, 1, 1), y.repeat(8)
        settings = {"n": 5, "epsilon": 0.1, "mode": "screen", "inputs": 1600, "draws": 20}
        few = analyse(network, (x, y), classes_only=True, **settings)
        full = analyse(network, (x, y), **{**settings, "mode": "both"})
        seen = 0
        for unit in full.units:
            for name in FILTERS:
                decision = few.decisions["static", unit][name, "difference"]
                exact = full.score(unit, name, "difference", attack="static").score
                assert decision.low - 1e-9 <= exact <= decision.high + 1e-9
                chosen = name in few.adaptive.get(unit, {})
                assert chosen == (decision.score > 0.02)
                if not chosen:
                    continue
                seen += 1
                anew = few.decisions["adaptive", unit][name, "difference"]
                exact = full.score(unit, name, "difference", attack="adaptive").score
                assert anew.low - 1e-9 <= exact <= anew.high + 1e-9
                assert anew.label == ("fragile" if exact < -0.02 else "robust" if exact <= 0.02 else "antifragile")
        assert seen
