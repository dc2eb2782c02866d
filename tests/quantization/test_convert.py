"""convert: the same weights bit for bit on packed kernels, and the model it was given unharmed."""

import copy

import pytest
import torch
from torch import nn

import ttq_energy as te
from ttq_energy.errors import InputError
from ttq_energy.kernels.modules import TernaryConv2d, TernaryLinear, TernaryModule
from ttq_energy.quantization import layer_summary, quantized_layers
from ttq_energy.quantization.summary import packed_layers

TERNARY = [
    te.TTQ(),
    te.TTQ(per="channel", symmetric=True),
    te.TTQ(sparsity=0.6),
    te.TWN(),
    te.BWN(),
    te.DoReFa(),
    te.AbsMean(),
]


def convolutions():
    return nn.Sequential(
        nn.Conv2d(4, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, groups=8, padding="same", dilation=2),
        nn.Conv2d(8, 8, (3, 2), stride=2, groups=2, padding=(1, 0)),
        nn.Conv2d(8, 6, 3, padding=1, padding_mode="reflect"),
        nn.Conv2d(6, 6, 2, padding="same"),
        nn.Flatten(),
        nn.LazyLinear(5),
    )


def built(make, x):
    torch.manual_seed(0)
    model = make()
    model(x)
    return model.eval()


IMAGES = torch.randn(2, 4, 9, 9, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("config", TERNARY, ids=repr)
def test_effective_weights_are_the_same_bit_for_bit(config):
    model = te.prepare_(built(convolutions, IMAGES), config, skip=())
    packed = dict(packed_layers(te.convert(model)))
    before = quantized_layers(model)
    assert len(packed) == len(before) == 6
    after = [module.effective_weight() for module in packed.values()]
    for weight, value in zip(before.values(), after, strict=True):
        assert torch.equal(weight.effective(), value)


def test_outputs_agree_and_layers_are_packed():
    model = te.prepare_(built(convolutions, IMAGES), te.TTQ())
    packed = te.convert(model)
    torch.testing.assert_close(packed(IMAGES), model(IMAGES))
    assert isinstance(packed[3], TernaryConv2d)
    assert isinstance(packed[0], nn.Conv2d)
    fused = te.convert(model, example_input=IMAGES)
    torch.testing.assert_close(fused(IMAGES), model(IMAGES))


def test_int8_activations_stay_near_the_exact_ones():
    model = te.prepare_(built(convolutions, IMAGES), te.TTQ())
    exact, rounded = te.convert(model)(IMAGES), te.convert(model, activations="int8")(IMAGES)
    assert not torch.equal(exact, rounded)
    assert (exact - rounded).abs().max() < 0.1 * exact.abs().max()


def test_the_model_is_unharmed_and_shares_nothing():
    model = te.prepare_(built(convolutions, IMAGES), te.TTQ()).train()
    clone = copy.deepcopy(model)
    packed = te.convert(clone, example_input=IMAGES)
    for one in (clone, model):
        assert len(quantized_layers(one)) == 4
        assert one.training
        one(IMAGES).sum().backward()
        assert all(p.grad is not None for p in one.parameters())
    expected = packed(IMAGES).clone()
    with torch.no_grad():
        for tensor in [*clone.parameters(), *clone.buffers()]:
            tensor.zero_()
    assert torch.equal(packed(IMAGES), expected)


def test_one_dimensional_convolutions():
    def make():
        return nn.Sequential(
            nn.Conv1d(4, 6, 3, padding=1), nn.Conv1d(6, 6, 3, groups=3, padding="same")
        )

    x = torch.randn(2, 4, 9)
    model = te.prepare_(built(make, x), te.TWN(), skip=())
    torch.testing.assert_close(te.convert(model)(x), model(x))


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
@pytest.mark.parametrize("skip", [(), ["weight_hh_l0"]])
def test_recurrent_layers(kind, skip):
    torch.manual_seed(0)
    model = te.prepare_(kind(5, 7, num_layers=2, bidirectional=True), te.TTQ(), skip=skip).eval()
    x = torch.randn(4, 2, 5)
    packed = te.convert(model)
    torch.testing.assert_close(packed(x)[0], model(x)[0])
    assert [s.layer for s in layer_summary(packed)] == [s.layer for s in layer_summary(model)]


@pytest.mark.parametrize(
    "options",
    [{}, {"batch_first": True}, {"kdim": 6, "vdim": 6}, {"bias": False, "add_bias_kv": True}],
)
@pytest.mark.parametrize("skip", [(), ["out_proj"]])
def test_attention(options, skip):
    torch.manual_seed(0)
    model = te.prepare_(nn.MultiheadAttention(8, 2, **options), te.TTQ(), skip=skip).eval()
    first = options.get("batch_first", False)
    q, k = torch.randn(3, 5, 8), torch.randn(3, 6, options.get("kdim", 8))
    if not first:
        q, k = q.transpose(0, 1), k.transpose(0, 1)
    hidden = torch.zeros(3, 6, dtype=torch.bool)
    hidden[:, 4:] = True
    packed = te.convert(model)
    causal = torch.ones(5, 6, dtype=torch.bool).triu(2)
    for keywords in (
        {},
        {"key_padding_mask": hidden},
        {"attn_mask": causal, "need_weights": False},
        {"attn_mask": causal.expand(6, 5, 6), "average_attn_weights": False},
    ):
        expected, got = model(q, k, k, **keywords), packed(q, k, k, **keywords)
        torch.testing.assert_close(got, expected)


def test_a_transformer_encoder():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.0)
    model = te.prepare_(nn.TransformerEncoder(layer, 2), te.TTQ(), skip=()).eval()
    x = torch.randn(2, 5, 8)
    with torch.no_grad():
        torch.testing.assert_close(te.convert(model)(x), model(x))


def test_a_module_in_two_places_stays_one():
    shared = nn.Linear(4, 4)
    model = te.prepare_(nn.Sequential(shared, nn.ReLU(), shared), te.TTQ(), skip=())
    packed = te.convert(model)
    assert packed[0] is packed[2]
    assert isinstance(packed[0], TernaryLinear)


def test_the_whole_model_may_be_one_layer():
    model = te.prepare_(nn.Linear(4, 3), te.TTQ(), skip=())
    packed = te.convert(model)
    x = torch.randn(2, 4)
    torch.testing.assert_close(packed(x), model(x).detach())
    assert [s.layer for s in layer_summary(packed)] == [s.layer for s in layer_summary(model)]


def test_what_cannot_be_packed_is_told():
    with pytest.raises(InputError, match="no quantized layer"):
        te.convert(nn.Linear(2, 2))
    model = te.prepare_(nn.Linear(2, 2), te.TTQ(), skip=())
    with pytest.raises(InputError, match="did you mean 'int8'"):
        te.convert(model, activations="int4")
    fake = te.prepare_(nn.Linear(8, 8), te.DoReFa(bits=4), skip=())
    with pytest.raises(InputError, match=r"layer 'model': DoReFa.*more than three"):
        te.convert(fake)


def test_summaries_of_prepared_and_packed_models_agree():
    model = te.prepare_(built(convolutions, IMAGES), te.TTQ(), skip=["5", "6"])
    packed = te.convert(model)
    for before, after in zip(layer_summary(model), layer_summary(packed), strict=True):
        assert before.layer == after.layer
        assert before.zero_fraction == after.zero_fraction
        assert (before.w_pos, before.w_neg) == (after.w_pos, after.w_neg)
        assert torch.equal(before.zeros_per_output, after.zeros_per_output)
        assert int(before.zeros_per_output.sum()) == round(before.zero_fraction * before.elements)
    assert any(isinstance(m, TernaryModule) for m in packed.modules())


def test_summary_of_weights_that_are_not_ternary():
    (only,) = layer_summary(te.prepare_(nn.Linear(8, 8), te.DoReFa(bits=4), skip=()))
    assert only.w_pos != only.w_pos
    assert only.elements == 64
