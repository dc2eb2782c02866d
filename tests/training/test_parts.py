"""Optimizer groups, schedules, intervals, costs and weight files."""

import dataclasses
import math

import pytest
import torch
from scipy import stats
from torch import nn

import ttq_energy as te
from ttq_energy.errors import InputError
from ttq_energy.study import FineTuneSpec, ParameterGroupSpec, TrainingSpec
from ttq_energy.training import load_weights, save_weights, wilson_interval
from ttq_energy.training.cost import Cost, over_hosts
from ttq_energy.training.distributed import Processes
from ttq_energy.training.optimization import Schedule, effective_spec, make_optimizer, set_rate


@pytest.mark.parametrize(("correct", "total"), [(0, 10), (10, 10), (355, 360), (1, 2), (97, 100)])
def test_wilson_interval_is_that_of_scipy(correct, total):
    expected = stats.binomtest(correct, total).proportion_ci(0.95, method="wilson")
    assert wilson_interval(correct, total) == pytest.approx((expected.low, expected.high))


def test_fine_tuning_settings_stand_above_the_others():
    spec = TrainingSpec(epochs=20, fine_tune=FineTuneSpec(epochs=0, learning_rate=0.01))
    assert effective_spec(spec, fine_tune=False) is spec
    own = effective_spec(spec, fine_tune=True)
    assert (own.epochs, own.learning_rate, own.weight_decay) == (0, 0.01, spec.weight_decay)


@pytest.mark.parametrize("scale_weight_decay", [False, True])
def test_weight_decay_acts_on_weights_and_on_scales_only_if_asked(scale_weight_decay):
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3))
    te.prepare_(model, te.TTQ(per="channel"), skip=["0"])
    spec = TrainingSpec(weight_decay=0.5, scale_weight_decay=scale_weight_decay)
    optimizer = make_optimizer(model, spec)
    decayed = {
        id(p) for group in optimizer.param_groups if group["weight_decay"] for p in group["params"]
    }
    names = {name for name, p in model.named_parameters() if id(p) in decayed}
    scales = {f"2.parametrizations.weight.0.{name}" for name in ("w_pos", "w_neg")}
    weights = {"0.weight", "2.parametrizations.weight.original"}
    assert names == weights | (scales if scale_weight_decay else set())
    assert sum(len(g["params"]) for g in optimizer.param_groups) == len(list(model.parameters()))


def test_layers_can_have_a_decay_and_a_rate_of_their_own():
    model = nn.ModuleDict({"features": nn.Conv2d(1, 4, 3), "classifier": nn.Linear(4, 4)})
    te.prepare_(model, te.TTQ(), skip=["features"])
    spec = TrainingSpec(
        optimizer="adam",
        epsilon=1e-5,
        weight_decay=0.5,
        scale_weight_decay=True,
        parameter_groups=(
            ParameterGroupSpec("features*", weight_decay=0.0, learning_rate_factor=0.1),
        ),
    )
    optimizer = make_optimizer(model, spec)
    set_rate(optimizer, 2.0)
    own = {
        name: (group["weight_decay"], group["lr"], group["eps"])
        for group in optimizer.param_groups
        for name, parameter in model.named_parameters()
        if any(parameter is p for p in group["params"])
    }
    weight = "classifier.parametrizations.weight"
    assert own["features.weight"] == (0.0, 0.2, 1e-5)
    assert own[f"{weight}.original"] == own[f"{weight}.0.w_pos"] == (0.5, 2.0, 1e-5)
    assert own["classifier.bias"] == (0.0, 2.0, 1e-5)


def test_a_group_that_names_no_layer_says_the_nearest():
    spec = TrainingSpec(parameter_groups=(ParameterGroupSpec("clasifier"),))
    with pytest.raises(InputError, match=r"parameter_groups.*did you mean 'classifier'"):
        make_optimizer(nn.ModuleDict({"classifier": nn.Linear(2, 2)}), spec)


def test_epsilon_goes_with_adam():
    with pytest.raises(InputError, match="epsilon"):
        TrainingSpec(optimizer="sgd", epsilon=1e-5)


def rates(steps=10, **settings):
    spec = TrainingSpec(learning_rate=1.0, **settings)
    schedule = Schedule(spec, steps)
    return [schedule.rate(e, s) for e in range(spec.epochs) for s in range(steps)]


def test_schedules():
    cosine = rates(epochs=4, schedule="cosine")
    assert cosine[0] == 1.0
    assert cosine[20] == pytest.approx(0.5)
    assert cosine[-1] == pytest.approx((1 + math.cos(math.pi * 39 / 40)) / 2)
    steps = rates(epochs=4, schedule="step", milestones=(1, 3), gamma=0.1)
    assert steps[9:11] == [1.0, pytest.approx(0.1)]
    assert steps[29:31] == [pytest.approx(0.1), pytest.approx(0.01)]
    assert rates(epochs=2, schedule="linear")[10] == pytest.approx(0.5)
    assert set(rates(epochs=2, schedule="constant")) == {1.0}


def test_warmup_rises_to_the_rate():
    warm = rates(epochs=3, schedule="constant", warmup_epochs=1)
    assert warm[0] == pytest.approx(1 / 11)
    assert warm[:11] == sorted(warm[:11])
    assert set(warm[10:]) == {1.0}


def test_costs_add_and_unknown_stays_unknown():
    total = Cost()
    total.add(Cost(1.0, 10.0, 9.0, 11.0, "counter"))
    total.add(Cost(2.0, 5.0, 4.5, 5.5, "counter"))
    assert total == Cost(3.0, 15.0, 13.5, 16.5, "counter")
    total.add(Cost(1.0, None, None, None, "counter"))
    assert (total.wall_s, total.energy_j) == (4.0, None)


def test_energies_of_different_provenance_are_never_summed():
    total = Cost(1.0, 10.0, 9.0, 11.0, "counter")
    total.add(Cost(1.0, 10.0, 9.0, 11.0, "modelled"))
    assert (total.energy_j, total.provenance) == (None, "")


def test_hosts_add_up_and_processes_of_one_host_count_once():
    one = Cost(3.0, 10.0, 9.0, 11.0, "counter")
    assert over_hosts([one, None, dataclasses.replace(one, wall_s=4.0), None]) == Cost(
        4.0, 20.0, 18.0, 22.0, "counter"
    )


def test_a_batch_that_cannot_be_shared_is_refused():
    assert Processes(0, 4).share(64) == 16
    with pytest.raises(InputError, match="multiple of the 3 processes"):
        Processes(0, 3).share(64)


# -- weight files ---------------------------------------------------------------------------------


def test_tied_weights_and_scales_survive(tmp_path):
    def make():
        model = te.models.build(
            "lstm-lm", embedding_size=8, hidden_size=8, n_layers=2, tie_weights=True
        )
        return te.prepare_(model, te.TTQ())

    torch.manual_seed(0)
    first = make()
    save_weights(tmp_path / "x.safetensors", first, {"note": "text"})
    second = make()
    load_weights(tmp_path / "x.safetensors", second)
    x = torch.randint(97, (2, 5))
    assert torch.equal(first(x), second(x))
    assert second.head.weight is second.embedding.weight


def test_packed_models_are_saved_and_loaded(tmp_path):
    torch.manual_seed(0)
    prepared = te.prepare_(nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8)), te.TTQ(), ())
    packed = te.convert(prepared)
    save_weights(tmp_path / "x.safetensors", packed)
    with torch.no_grad():
        for parameter in prepared.parameters():
            parameter.mul_(-2)
    other = te.convert(prepared)
    load_weights(tmp_path / "x.safetensors", other)
    x = torch.randn(3, 8)
    assert torch.equal(other(x), packed(x))


def test_files_that_do_not_fit_are_one_line_and_change_nothing(tmp_path):
    path = tmp_path / "x.safetensors"
    model = nn.Linear(3, 2)
    before = {name: value.clone() for name, value in model.state_dict().items()}

    def refused(message):
        with pytest.raises(InputError, match=message) as caught:
            load_weights(path, model)
        assert "\n" not in str(caught.value)
        assert str(path) in str(caught.value)

    refused("no such checkpoint")
    path.write_bytes(b"")
    refused("not a whole .safetensors file")
    save_weights(path, nn.Linear(3, 2))
    path.write_bytes(path.read_bytes()[:-4])
    refused("not a whole .safetensors file")
    save_weights(path, nn.Linear(4, 2))
    refused(r"'weight' has shape \(2, 4\), expected \(2, 3\)")
    save_weights(path, nn.Linear(3, 2, bias=False))
    refused("the weight 'bias' is missing")
    save_weights(path, nn.Bilinear(3, 3, 2))
    refused("'weight' has shape|missing")
    wide = nn.Linear(3, 2)
    wide.extra = nn.Linear(1, 1)
    save_weights(path, wide)
    refused("no weight 'extra")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_folder_that_cannot_be_written_is_told(tmp_path):
    with pytest.raises(InputError, match="cannot write here"):
        save_weights(tmp_path / "absent" / "x.safetensors", nn.Linear(2, 2))
