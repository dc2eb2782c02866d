"""Counting: equal to torch's counter where that counts, and real zeros everywhere."""

import copy

import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import ttq_energy as te
from ttq_energy import models
from ttq_energy.energy_model import activation_zeros, count, layer_rows
from ttq_energy.energy_model.weights import zeros_in
from ttq_energy.errors import InputError
from ttq_energy.quantization import config_from_dict, prepare_, quantized_layers
from ttq_energy.run import TABLES
from ttq_energy.variants import BUILT_IN


def torch_macs(model, *inputs):
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(*inputs)
    return counter.get_total_flops() // 2


@settings(max_examples=20, deadline=None)
@given(
    groups=st.integers(1, 3),
    inner=st.integers(1, 3),
    outer=st.integers(1, 3),
    kernel=st.integers(1, 3),
    stride=st.integers(1, 2),
    dilation=st.integers(1, 2),
    rank=st.integers(1, 3),
    transposed=st.booleans(),
    batch=st.integers(1, 3),
)
def test_convolutions_equal_torchs_counter(
    groups, inner, outer, kernel, stride, dilation, rank, transposed, batch
):
    kinds = [nn.Conv1d, nn.Conv2d, nn.Conv3d]
    if transposed:
        kinds = [nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d]
    layer = kinds[rank - 1](
        groups * inner, groups * outer, kernel, stride=stride, dilation=dilation, groups=groups
    )
    x = torch.randn(batch, groups * inner, *[7] * rank)
    row = count(layer, x).iloc[0]
    assert row["macs"] == torch_macs(layer, x)
    assert row["output_elements"] == layer(x).numel() or transposed
    assert row["weight_elements"] == layer.weight.numel()
    assert "conv" in row["op"]


@settings(max_examples=15, deadline=None)
@given(shape=st.lists(st.integers(1, 4), min_size=1, max_size=3), inner=st.integers(1, 9))
def test_linear_layers_equal_torchs_counter(shape, inner):
    layer = nn.Linear(inner, 5)
    x = torch.randn(*shape, inner)
    counts = count(layer, x)
    assert counts["macs"].sum() == torch_macs(layer, x)
    assert counts.iloc[0][["op", "input_elements"]].tolist() == ["linear", x.numel()]


@pytest.mark.parametrize("name", ["resnet20", "vgg7", "mobilenetv2", "resnet18", "alexnet"])
def test_networks_equal_torchs_counter_and_own_every_parameter(name):
    model, x = models.build(name).eval(), models.example_input(name, 1)
    counts = count(model, x)
    assert counts["macs"].sum() == torch_macs(model, x)
    assert counts["supported"].all()
    assert counts["parameters"].sum() == sum(p.numel() for p in model.parameters())


def test_published_macs():
    alexnet = models.build("alexnet", variant="original")
    counts = count(alexnet, models.example_input("alexnet", 1, variant="original"))
    convolutions = counts[counts["op"] == "conv2d"]["macs"]
    assert convolutions.sum() == 665_784_864  # 0.67 G, Chen et al., JSSC 2017
    with torch.device("meta"):
        resnet = models.build("resnet50")
    macs = count(resnet, torch.empty(1, 3, 224, 224, device="meta"))["macs"].sum()
    assert macs == pytest.approx(4.09e9, rel=0.005)  # torchvision's table


@pytest.mark.parametrize("form", ["dense", "quantized", "packed"])
def test_a_network_named_after_its_lstm_has_all_weights_known_and_a_linear_head(form):
    network = models.build("lstm-lm", vocab=50, embedding_size=12, hidden_size=16, n_layers=2)
    if form != "dense":
        te.prepare_(network, te.TTQ())
    if form == "packed":
        network = te.convert(network)
    counts = count(network, torch.randint(0, 50, (1, 4)))
    assert counts["supported"].all()
    ops = counts.set_index("layer")["op"]
    assert ops["head"] == "linear"
    assert (ops.filter(like="weight_hh") == "lstm").all()


def test_lstm_and_gru_count_every_step():
    lstm = nn.LSTM(8, 16, num_layers=2, bidirectional=True, batch_first=True)
    counts = count(lstm, torch.randn(3, 5, 8))
    products = counts[counts["op"] == "lstm"]
    by_hand = 3 * 5 * 2 * 4 * 16 * ((8 + 16) + (32 + 16))
    assert products["macs"].sum() == by_hand
    assert products["weight_elements"].sum() == sum(
        p.numel() for n, p in lstm.named_parameters() if "weight" in n
    )
    gru = count(nn.GRUCell(8, 16), torch.randn(3, 8))
    assert gru[gru["op"] == "gru"]["macs"].sum() == 3 * 3 * 16 * (8 + 16)


def test_attention_is_counted_as_a_module_as_a_function_and_with_a_cache():
    layer = nn.MultiheadAttention(16, 4, batch_first=True)
    x = torch.randn(2, 6, 16)
    counts = count(layer, (x, x, x))
    by_op = counts.groupby("op")["macs"].sum()
    assert by_op["attention"] == 2 * 2 * 6 * 6 * 16
    assert by_op["linear"] == 2 * 6 * 4 * 16 * 16

    class Cached(nn.Module):
        def forward(self, q, keys, values):
            return nn.functional.scaled_dot_product_attention(q, keys, values)

    q, cache = torch.randn(1, 4, 1, 8), torch.randn(1, 4, 50, 8)
    row = count(Cached(), (q, cache, cache)).iloc[0]
    assert row["macs"] == 2 * 4 * 50 * 8
    assert row["second_operand_elements"] == 2 * cache.numel()


def test_functional_products_and_sums_are_seen():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(4, 3))

        def forward(self, x):
            return nn.functional.linear(x, self.weight).relu() + 1

    counts = count(Net(), torch.randn(2, 3)).set_index("op")
    assert counts.loc["linear", "macs"] == 24
    assert counts.loc["linear", "weight_elements"] == 12
    assert counts.loc["elementwise", "adds"] == 8
    assert counts.loc["activation", "adds"] == 8


def test_ternary_layers_count_their_real_zeros_alike_before_and_after_packing():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 5))
    x = torch.randn(2, 3, 8, 8)
    prepared = te.prepare_(model, te.TTQ(sparsity=0.5), skip=())
    dense_rows = count(prepared, x)
    packed_rows = count(te.convert(prepared), x)
    for counts in (dense_rows, packed_rows):
        conv = counts[counts["op"] == "conv2d"].iloc[0]
        nonzeros = conv["weight_elements"] - conv["zeros_per_output"].sum()
        assert conv["weight_zero_fraction"] == 0.5
        assert conv["adds"] == nonzeros * 2 * 36 + 2 * 8 * 36
        assert conv["multiplies"] == 2 * (2 * 8 * 36)
        assert conv["weight_bits"] == 2
        assert conv["weight_bytes"] == 216 * 2 / 8 + 8
    assert (packed_rows["macs"].sum(), packed_rows["adds"].max()) == (
        dense_rows["macs"].sum(),
        dense_rows["adds"].max(),
    )


def test_equal_scales_need_one_multiply_and_no_further_add():
    layer = te.prepare_(nn.Linear(6, 4), te.TTQ(symmetric=True, sparsity=0.5), skip=())
    row = count(layer, torch.randn(1, 6)).iloc[0]
    assert (row["multiplies"], row["adds"]) == (4, 12)


class _EveryQuantizableKind(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(16, 16), nn.Linear(8, 4)
        self.conv = nn.Conv1d(16, 16, 3, padding=1, groups=2)
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.lstm = nn.LSTM(16, 4, batch_first=True, bidirectional=True)

    def forward(self, x):
        x = self.conv(self.first(x).mT).mT
        return self.last(self.lstm(self.attention(x, x, x)[0])[0])


@pytest.mark.parametrize("variant", [name for name, v in BUILT_IN.items() if v.quantizer])
def test_a_variant_counts_as_the_quantized_network_itself_does(variant):
    model, x = _EveryQuantizableKind().eval(), torch.randn(2, 5, 16)
    found = count(model, x, variant=variant)
    quantized = copy.deepcopy(model)
    prepare_(quantized, config_from_dict(BUILT_IN[variant].quantizer), example_input=x)
    true = count(quantized, x, activation_bits=8 if variant == "ttq-int8" else None)
    zeros = "zeros_per_output"
    pd.testing.assert_frame_equal(found.drop(columns=zeros), true.drop(columns=zeros))
    weights = quantized_layers(quantized)
    assert len(weights) > 5
    for name, weight in weights.items():
        (row,) = found[found["layer"] == name].to_dict("records")
        codes = weight.codes().flatten(1)
        assert row[zeros].tolist() == (codes == 0).sum(1).tolist()


def test_a_variant_is_counted_without_touching_the_model():
    model = models.build("resnet20").train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    x = models.example_input("resnet20", 1)
    counts = count(model, x, variant="ttq", sparsity=0.7)
    kinds = counts[counts["macs"] > 0]["weight_kind"].tolist()
    assert kinds[0] == kinds[-1] == "dense"
    assert set(kinds[1:-1]) == {"ternary"}
    zeros = counts[counts["weight_kind"] == "ternary"]["weight_zero_fraction"]
    assert zeros.to_numpy() == pytest.approx(0.7, abs=0.01)
    assert model.training
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_zeros_of_dense_weights_are_measured():
    layer = nn.Linear(10, 4)
    with torch.no_grad():
        layer.weight[:, :3] = 0
    row = count(layer, torch.randn(1, 10)).iloc[0]
    assert row["weight_zero_fraction"] == pytest.approx(0.3)
    assert row["zeros_per_output"].tolist() == [3, 3, 3, 3]


def test_unknown_modules_with_parameters_are_listed():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.known, self.odd = nn.Linear(4, 4), nn.Bilinear(4, 4, 2)

        def forward(self, x):
            return self.odd(self.known(x), x)

    counts = count(Net(), torch.randn(1, 4))
    unknown = counts[~counts["supported"]]
    assert unknown["layer"].tolist() == ["odd"]
    assert unknown["parameters"].sum() == 32  # its bias is seen, in an addition


def test_a_layer_used_with_two_shapes_gets_two_rows():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(1, 1, 1)

        def forward(self, x):
            return self.conv(x).mean() + self.conv(x[..., ::2, ::2]).mean()

    counts = count(Net(), torch.randn(1, 1, 4, 4))
    assert counts[counts["op"] == "conv2d"][["layer", "macs"]].to_numpy().tolist() == [
        ["conv", 16],
        ["conv#2", 4],
    ]


def test_activation_zeros_are_measured_by_layer():
    model = nn.Sequential(nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, 2))
    zeros = activation_zeros(model, torch.randn(100, 4))
    assert zeros["0"] == 0
    assert 0.3 < zeros["2"] < 0.7


def test_widths_follow_the_variant():
    model, x = models.build("resnet20"), models.example_input("resnet20", 1)
    int8 = count(model, x, variant="int8")
    products = int8[int8["macs"] > 0]
    assert set(products["weight_bits"]) == set(products["activation_bits"]) == {8}
    mixed = count(model, x, variant="ttq-int8")
    widths = mixed[mixed["macs"] > 0].groupby("weight_kind")["activation_bits"].unique()
    assert widths["ternary"].tolist() == [8]
    assert widths["dense"].tolist() == [32]


def test_layer_rows_have_the_columns_of_the_run():
    counts = count(nn.Linear(2, 2), torch.randn(1, 2))
    rows = layer_rows("net", "fp32", counts)
    assert list(rows[0]) == TABLES["layers"].names


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"variant": "tqt"}, "did you mean 'ttq'"),
        ({"sparsity": 0.5}, "needs a ternary variant"),
        ({"variant": "twn", "sparsity": 0.5}, "sets its own zeros"),
        ({"variant": "ttq", "sparsity": 1.5}, "below 1"),
    ],
)
def test_wrong_arguments_are_told(arguments, message):
    with pytest.raises(InputError, match=message):
        count(models.build("resnet20"), models.example_input("resnet20", 1), **arguments)


def test_an_input_that_does_not_fit_is_told():
    with pytest.raises(InputError, match="does not take it"):
        count(nn.Linear(3, 3), torch.randn(1, 4))


@pytest.mark.parametrize(("kind", "gates"), [("LSTM", 4), ("GRU", 3), ("RNN", 1)])
def test_packed_sequences_count_the_steps_that_each_has(kind, gates):
    layer = getattr(nn, kind)(5, 6, bidirectional=True)
    lengths = [4, 3, 2]
    packed = nn.utils.rnn.pack_padded_sequence(torch.randn(4, 3, 5), torch.tensor(lengths))
    counts = te.count(layer, (packed,))
    assert counts["macs"].sum() == 2 * sum(lengths) * gates * 6 * (5 + 6)


class Functional(nn.Module):
    """Parameters used by functions, none in a module of their own."""

    def __init__(self):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(6, 4)), nn.Parameter(torch.randn(6))
        self.batched = nn.Parameter(torch.randn(3, 5, 6))

    def forward(self, x):
        y = nn.functional.linear(x, self.weight, self.bias)
        return torch.addbmm(y, torch.randn(3, 2, 5), self.batched)


def test_products_of_bare_parameters_count_with_their_biases():
    counts = te.count(Functional(), torch.randn(2, 4))
    assert counts["supported"].all()
    assert counts["macs"].sum() == 2 * 4 * 6 + 3 * 2 * 5 * 6


def test_a_model_without_layers_counts_nothing():
    counts = te.count(nn.Identity(), torch.randn(2))
    assert not len(counts[~counts["supported"]])
    assert counts["macs"].sum() == 0


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_zeros_are_counted_in_every_layout(layout):
    x = torch.randn(3, 5, 70, 300).relu().to(memory_format=layout)
    assert zeros_in(x) == int((x == 0).sum()) > 0
