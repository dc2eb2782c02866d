"""prepare_ on every kind of layer, and together with what people train with."""

import copy

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import ttq_energy as te
from ttq_energy.errors import InputError
from ttq_energy.quantization import effective_state_dict, quantized_layers, rules


class Recurrent(nn.Module):
    def __init__(self, kind=nn.LSTM):
        super().__init__()
        self.embedding = nn.Embedding(10, 8)
        self.rnn = kind(8, 6, num_layers=2, batch_first=True)
        self.head = nn.Linear(6, 10)

    def forward(self, x):
        return self.head(self.rnn(self.embedding(x))[0])


class Attending(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(10, 8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, 10)

    def forward(self, x):
        x = self.embedding(x)
        return self.head(self.attention(x, x, x, need_weights=False)[0])


class Backwards(nn.Module):
    """Registered in another order than it runs in."""

    def __init__(self):
        super().__init__()
        self.last = nn.Linear(8, 8)
        self.middle = nn.Linear(8, 8)
        self.first = nn.Linear(8, 8)

    def forward(self, x):
        return self.last(self.middle(self.first(x)))


class Untraceable(Backwards):
    def forward(self, x):
        return super().forward(x) if x.sum() > 0 else super().forward(-x)


def convolutions():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.Conv2d(8, 8, 3, groups=8),
        nn.Conv2d(8, 8, 3, groups=2),
        nn.Conv2d(8, 4, 1),
    )


@pytest.mark.parametrize(
    ("model", "x", "expected"),
    [
        (convolutions, torch.randn(2, 3, 9, 9), ["1", "2"]),
        (
            lambda: nn.Sequential(*(nn.Conv1d(4, 4, 3) for _ in range(3))),
            torch.randn(2, 4, 9),
            ["1"],
        ),
        (
            Recurrent,
            torch.randint(10, (2, 5)),
            [f"rnn.weight_{side}_l{layer}" for layer in (0, 1) for side in ("ih", "hh")],
        ),
        (
            lambda: Recurrent(nn.GRU),
            torch.randint(10, (2, 5)),
            [f"rnn.weight_{side}_l{layer}" for layer in (0, 1) for side in ("ih", "hh")],
        ),
        (
            Attending,
            torch.randint(10, (2, 5)),
            ["attention.in_proj_weight", "attention.out_proj"],
        ),
        (Backwards, torch.randn(2, 8), ["middle"]),
    ],
)
def test_first_and_last_stay_and_the_rest_is_ternary(model, x, expected):
    model = model()
    parameters = {id(p) for p in model.parameters()}
    assert te.prepare_(model, te.TTQ()) is model
    quantized = quantized_layers(model)
    assert list(quantized) == expected
    assert parameters <= {id(p) for p in model.parameters()}
    model(x).sum().backward()
    for weight in quantized.values():
        assert len(weight.effective().unique()) <= 3 * max(weight.parts, 1)
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("example_input", [None, torch.randn(2, 8)])
def test_position_is_that_of_execution(example_input):
    model = te.prepare_(Backwards(), te.TWN(), example_input=example_input)
    assert list(quantized_layers(model)) == ["middle"]


def test_a_model_without_a_graph_needs_an_example_or_goes_by_registration():
    assert list(quantized_layers(te.prepare_(Untraceable(), te.TWN()))) == ["middle"]
    names = ("last", "first")
    model = Untraceable()
    model.extra = nn.Linear(8, 8)
    te.prepare_(model, te.TWN(), example_input=torch.ones(2, 8))
    assert "extra" in quantized_layers(model)
    assert not set(names) & set(quantized_layers(model))


def test_the_example_changes_neither_mode_nor_statistics():
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 4), nn.Linear(4, 2))
    model[1].eval()
    before = copy.deepcopy(model.state_dict())
    te.prepare_(model, te.TWN(), example_input=torch.randn(3, 4))
    assert [m.training for m in model[:2]] == [True, False]
    assert torch.equal(model[1].running_mean, before["1.running_mean"])


def test_skip_and_overrides():
    model = te.prepare_(convolutions(), te.TTQ(), skip=())
    assert list(quantized_layers(model)) == ["0", "1", "2", "3"]
    model = te.prepare_(convolutions(), te.TTQ(), skip=["1"])
    assert list(quantized_layers(model)) == ["0", "2", "3"]
    model = te.prepare_(convolutions(), te.TTQ(), overrides={"0": te.BWN(), "1": None})
    configs = {name: w.quantizer.config for name, w in quantized_layers(model).items()}
    assert configs == {"0": te.BWN(), "2": te.TTQ()}
    model = te.prepare_(Recurrent(), te.TTQ(), skip=["rnn.weight_hh_l0", "head"])
    assert "rnn.weight_hh_l0" not in quantized_layers(model)
    assert "rnn.weight_ih_l0" in quantized_layers(model)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"skip": ["rnn.weight_hh_10"]}, "did you mean 'rnn.weight_hh_l"),
        ({"skip": "head"}, "expected a list"),
        ({"overrides": {"heads": None}}, "did you mean 'head'"),
        ({"skip": ["rnn", "head"]}, "nothing is left"),
        ({"example_input": torch.randn(2, 5)}, "does not take it"),
        ({"config": "TTQ"}, "config: expected one of TTQ"),
        ({"config": te.TTQ}, r"did you mean 'TTQ\(\)'"),
    ],
)
def test_wrong_arguments_leave_the_model_alone(arguments, message):
    model = Recurrent()
    arguments = {"config": te.TTQ(), **arguments}
    with pytest.raises(InputError, match=message):
        te.prepare_(model, **arguments)
    assert not quantized_layers(model)
    assert set(model.state_dict()) == set(Recurrent().state_dict())


def test_nothing_to_quantize_is_an_error():
    with pytest.raises(InputError, match="skip=\\(\\)"):
        te.prepare_(nn.Linear(4, 4), te.TTQ())
    with pytest.raises(InputError, match="no weight that can be quantized"):
        te.prepare_(nn.ReLU(), te.TTQ())
    model = te.prepare_(nn.Linear(4, 4), te.TTQ(), skip=())
    with pytest.raises(InputError, match="already prepared"):
        te.prepare_(model, te.TTQ(), skip=())


def test_tied_weights_stay_tied_and_the_embedding_in_full_precision():
    model = Recurrent()
    model.embedding, model.head = nn.Embedding(10, 6), nn.Linear(6, 10)
    model.rnn = nn.LSTM(6, 6, batch_first=True)
    model.head.weight = model.embedding.weight
    te.prepare_(model, te.TTQ(), skip=["rnn"])
    assert quantized_layers(model)["head"].module.parametrizations.weight.original is (
        model.embedding.weight
    )
    assert len(model.embedding.weight.unique()) > 3


# -- together with training's tools ---------------------------------------------------------------


def trained_step(model, x, optimizer):
    optimizer.zero_grad()
    model(x).float().pow(2).mean().backward()
    optimizer.step()


@pytest.mark.parametrize("make", [Recurrent, Attending, lambda: Recurrent(nn.GRU)])
def test_ema_copies_follow_a_trained_model(make):
    model = te.prepare_(make(), te.TTQ())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    x = torch.randint(10, (2, 5))
    trained_step(model, x, optimizer)
    average = torch.optim.swa_utils.AveragedModel(
        model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.5)
    )
    average.update_parameters(model)
    for _ in range(3):
        trained_step(model, x, optimizer)
        average.update_parameters(model)
    fresh = te.prepare_(make(), te.TTQ())
    fresh.load_state_dict(average.module.state_dict())
    with torch.no_grad():
        assert torch.equal(fresh.eval()(x), average.module.eval()(x))
        assert not torch.equal(model.eval()(x), average.module(x))


def test_weights_changed_in_any_way_are_quantized_anew():
    model = te.prepare_(Backwards(), te.TTQ())
    weight = quantized_layers(model)["middle"]
    original = model.middle.parametrizations.weight.original
    x = torch.randn(2, 8)
    ways = [
        lambda: original.data.copy_(torch.randn(8, 8)),
        lambda: setattr(original, "data", torch.randn(8, 8)),
        lambda: original.detach().neg_(),
        lambda: model.load_state_dict({k: -v for k, v in model.state_dict().items()}),
    ]
    for change in ways:
        for _ in range(2):
            model(x).sum().backward()
        with torch.no_grad():
            model(x)
            change()
            expected = weight.quantizer.ternary(original).values().view(8, 8)
            assert torch.equal(model.middle.weight, expected)


def test_each_weight_is_quantized_once_a_step(monkeypatch):
    calls = []
    ternarize = rules.ternarize
    monkeypatch.setattr(rules, "ternarize", lambda *a: calls.append(1) or ternarize(*a))

    class Checkpointed(Backwards):
        def forward(self, x):
            return self.last(
                checkpoint(lambda x: self.middle(self.middle(x)), x, use_reentrant=False)
            )

    model = te.prepare_(Checkpointed(), te.TTQ(), skip=["first", "last"])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        calls.clear()
        trained_step(model, torch.randn(2, 8), optimizer)
        assert len(calls) == 1


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_gradient_checkpointing_changes_no_gradient(use_reentrant):
    torch.manual_seed(0)
    plain = te.prepare_(Backwards(), te.TTQ())
    again = copy.deepcopy(plain)
    x = torch.randn(2, 8, requires_grad=True)
    plain(x).pow(2).sum().backward()
    checkpoint(again, x, use_reentrant=use_reentrant).pow(2).sum().backward()
    for a, b in zip(plain.parameters(), again.parameters(), strict=True):
        assert torch.equal(a.grad, b.grad)


def test_gradients_accumulate_over_several_backward_passes():
    model = te.prepare_(Backwards(), te.TTQ())
    x = torch.randn(4, 8)
    whole = copy.deepcopy(model)
    whole(x).sum().backward()
    for part in x.chunk(2):
        model(part).sum().backward()
    for a, b in zip(model.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


@pytest.mark.parametrize("config", [te.TTQ(), te.TWN(), te.BWN(), te.DoReFa(bits=4), te.AbsMean()])
def test_autocast_to_bf16(config):
    model = te.prepare_(convolutions(), config)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = model(torch.randn(2, 3, 9, 9))
    assert y.dtype == torch.bfloat16
    y.float().sum().backward()
    assert all(p.grad.dtype == torch.float32 for p in model.parameters())


@pytest.mark.parametrize("config", [te.TTQ(), te.TTQ(symmetric=True, per="channel"), te.BWN()])
def test_export_and_compile_see_the_same_values_and_gradients(config):
    torch.manual_seed(0)
    model = te.prepare_(Backwards(), config)
    x = torch.randn(2, 8)
    exported = torch.export.export(model, (x,))
    assert torch.equal(exported.module()(x), model(x))

    twin = copy.deepcopy(model)
    compiled = torch.compile(twin, backend="aot_eager", fullgraph=True)
    for run in (model, compiled):
        run(x).pow(2).sum().backward()
    for a, b in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


def test_the_effective_state_fits_the_plain_network():
    model = te.prepare_(Recurrent(), te.TTQ())
    plain = Recurrent()
    plain.load_state_dict(effective_state_dict(model))
    x = torch.randint(10, (2, 5))
    assert torch.equal(plain.eval()(x), model.eval()(x))
