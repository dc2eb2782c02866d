"""Chains of layers in one native call, against the same layers one by one."""

import copy
import pickle
import random
import threading

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from ttq_energy.kernels import describe, fusion
from ttq_energy.kernels.chain import Chain
from ttq_energy.kernels.fused_network import FusedNetwork
from ttq_energy.kernels.modules import TernaryConv2d, TernaryLinear


def random_codes(*shape: int) -> torch.Tensor:
    return torch.randint(-1, 2, shape, dtype=torch.int8)


def packed_conv(channels: int, out: int, activations: str, **options) -> TernaryConv2d:
    size = options.pop("kernel", 3)
    codes = random_codes(out, channels // options.get("groups", 1), size, size)
    scale = (2.0 / (codes[0].numel())) ** 0.5
    bias = torch.randn(out) if out % 2 else None
    return TernaryConv2d(
        codes,
        scale * (0.5 + torch.rand(out)),
        0.7 * scale,
        bias,
        activations=activations,
        **options,
    )


def layer_by_layer(network: nn.Module, *inputs: torch.Tensor):
    """The result while a hook watches one of the layers."""
    hook = next(m for m in network.modules() if isinstance(m, TernaryConv2d))
    seen = []
    handle = hook.register_forward_hook(lambda *_: seen.append(1))
    try:
        with torch.inference_mode():
            result = network(*inputs)
    finally:
        handle.remove()
    assert seen
    return result


def in_chains(network: nn.Module, *inputs: torch.Tensor):
    with torch.inference_mode():
        return network(*inputs)


class RandomNetwork(nn.Module):
    """Layers drawn at random, each fed by the last value or by an earlier one."""

    def __init__(self, seed: int, activations: str, exact: bool) -> None:
        super().__init__()
        draw = random.Random(seed)
        self.layers = nn.ModuleList()
        self.plan: list[tuple[str, int, int]] = []
        channels, sizes = [draw.choice((3, 4, 8))], [draw.choice((9, 14))]
        self.in_shape = (channels[0], sizes[0], sizes[0])
        kinds = ["conv"] * 5 + ["add", "relu", "max", "subsample"]
        if not exact:
            kinds += ["dense", "norm", "average"]
        for _ in range(draw.randint(3, 12)):
            kind = draw.choice(kinds)
            source = draw.choice([len(channels) - 1] * 3 + list(range(len(channels))))
            width, size, other = channels[source], sizes[source], -1
            if kind in ("max", "average", "subsample") and size < 5:
                kind = "conv"
            if kind in ("conv", "dense"):
                kernel = draw.choice((1, 3, 5))
                groups = 2 if width % 2 == 0 and draw.random() < 0.3 else 1
                out = draw.choice((4, 6, 16, 70))
                stride, padding = draw.choice((1, 1, 2)), draw.choice((kernel // 2, 2))
                dilation = draw.choice((1, 1, 2)) if kernel < 5 else 1
                size = (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
                if size < 1:
                    continue
                geometry = {"stride": stride, "padding": padding, "dilation": dilation}
                if kind == "dense":
                    layer = nn.Conv2d(width, out, kernel, groups=groups, **geometry)
                else:
                    layer = packed_conv(
                        width, out, activations, kernel=kernel, groups=groups, **geometry
                    )
                self.layers.append(layer)
                width = out
            elif kind == "norm":
                norm = nn.BatchNorm2d(width)
                norm.running_mean.normal_()
                norm.running_var.uniform_(0.5, 2)
                self.layers.append(norm)
            elif kind == "add":
                fit = [i for i in range(len(channels)) if (channels[i], sizes[i]) == (width, size)]
                other = draw.choice(fit)
            elif kind in ("max", "average"):
                padding, ceil = draw.choice((0, 1)), draw.random() < 0.5
                pool = nn.MaxPool2d if kind == "max" else nn.AvgPool2d
                self.layers.append(pool(3, 2, padding, ceil_mode=ceil))
                size = self.layers[-1](torch.zeros(1, 1, size, size)).shape[2]
            elif kind == "subsample":
                size, width = (size + 1) // 2, width + 3
            self.plan.append((kind, source, other))
            channels.append(width)
            sizes.append(size)

    def forward(self, x):
        values, layers = [x], iter(self.layers)
        for kind, source, other in self.plan:
            value = values[source]
            if kind == "add":
                value = value + values[other]
            elif kind == "relu":
                value = F.relu(value)
            elif kind == "subsample":
                value = F.pad(value[:, :, ::2, ::2], (0, 0, 0, 0, 1, 2))
            else:
                value = next(layers)(value)
            values.append(value)
        return values[-1], values[len(values) // 2]


def fused(network: nn.Module, x: torch.Tensor) -> FusedNetwork:
    result = fusion.fuse(network.eval(), x)
    assert isinstance(result, FusedNetwork)
    return result


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 3), st.booleans())
def test_int8_is_what_the_layers_give_bit_for_bit(seed, batch, channels_last):
    torch.manual_seed(seed)
    network = RandomNetwork(seed, "int8", exact=True)
    x = torch.randn(batch, *network.in_shape)
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    result = fused(network, x)
    for y, expected in zip(in_chains(result, x), layer_by_layer_or_same(result, x), strict=True):
        assert torch.equal(y, expected)
        assert y.shape == expected.shape


def layer_by_layer_or_same(network: nn.Module, x: torch.Tensor):
    if any(isinstance(m, TernaryConv2d) for m in network.modules()):
        return layer_by_layer(network, x)
    return in_chains(network, x)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 3))
def test_fp32_agrees_with_the_layers_to_rounding(seed, batch):
    torch.manual_seed(seed)
    network = RandomNetwork(seed, "fp32", exact=False)
    x = torch.randn(batch, *network.in_shape)
    result = fused(network, x)
    for y, expected in zip(in_chains(result, x), layer_by_layer_or_same(result, x), strict=True):
        assert (y - expected).norm() <= 1e-5 * expected.norm()


class Classifier(nn.Module):
    """As a small ResNet or AlexNet: dense and packed layers, pooling, flattening."""

    def __init__(self, activations: str = "fp32", features: int = 24) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.pool = nn.MaxPool2d(3, 2)
        self.conv1 = packed_conv(8, 8, activations, padding=1)
        self.conv2 = packed_conv(8, 8, activations, padding=1)
        self.drop = nn.Dropout()
        self.average = nn.AdaptiveAvgPool2d((2, 3))
        codes = random_codes(features, 48)
        self.hidden = TernaryLinear(codes, 0.2, 0.1, torch.randn(features), activations)
        self.last = nn.Linear(features, 5)

    def forward(self, x):
        x = self.pool(self.relu(self.first(x)))
        x = F.relu(self.conv2(F.relu(self.conv1(x))) + x)
        x = torch.flatten(self.average(self.drop(x)), 1)
        return self.last(F.relu(self.hidden(x)))


def classifier(activations: str = "fp32"):
    torch.manual_seed(0)
    x = torch.randn(4, 3, 16, 17)
    return fused(Classifier(activations), x), x


@pytest.mark.parametrize("activations", ["fp32", "int8"])
def test_a_whole_network_is_one_call(activations, monkeypatch):
    network, x = classifier(activations)
    expected = layer_by_layer(network, x)
    (chain,) = network.chains()
    monkeypatch.setattr(TernaryConv2d, "forward", None)
    torch.testing.assert_close(in_chains(network, x), expected, rtol=2e-2, atol=2e-2)
    if activations == "fp32":
        torch.testing.assert_close(in_chains(network, x), expected, rtol=1e-4, atol=1e-5)
    assert isinstance(chain, Chain)


def test_shapes_and_formats_may_change_from_call_to_call():
    network, _ = classifier()
    for shape in ((1, 3, 16, 17), (5, 3, 30, 20), (0, 3, 16, 17), (2, 3, 9, 9), (1, 3, 16, 17)):
        x = torch.randn(*shape)
        for given_ in (x, x.contiguous(memory_format=torch.channels_last), x.flip(3)):
            y = in_chains(network, given_)
            torch.testing.assert_close(y, layer_by_layer(network, given_), rtol=1e-4, atol=1e-5)
    with pytest.raises(Exception, match="channels"):
        network(torch.randn(2, 4, 16, 17))


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_the_number_of_threads_changes_no_bit(threads):
    network, x = classifier("int8")
    expected, before = in_chains(network, x), torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for images in (1, 2, 4):
            assert torch.equal(in_chains(network, x[:images]), expected[:images])
    finally:
        torch.set_num_threads(before)


def test_values_that_are_not_finite_go_as_the_layers_have_them():
    for activations in ("fp32", "int8"):
        network, x = classifier(activations)
        for bad in (float("nan"), float("inf"), -float("inf")):
            x[1, 0, 3, 3] = bad
            y, expected = in_chains(network, x), layer_by_layer(network, x)
            assert torch.equal(y.isnan(), expected.isnan())
            rest = [0, 2, 3]
            torch.testing.assert_close(y[rest], expected[rest], rtol=2e-2, atol=2e-2)


def test_changed_weights_count_at_the_next_call():
    network, x = classifier()
    before = in_chains(network, x)
    twin, _ = classifier()
    for module in twin.modules():
        if isinstance(module, TernaryConv2d | TernaryLinear):
            module.w_pos = module.w_pos * 2
            module._refresh_scales()
    twin.last.weight.mul_(3)
    expected = layer_by_layer(twin, x)
    torch.testing.assert_close(in_chains(twin, x), expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(expected, before)
    network.load_state_dict(twin.state_dict())
    assert torch.equal(in_chains(network, x), in_chains(twin, x))
    network.last = nn.Linear(24, 7).requires_grad_(False)
    torch.testing.assert_close(
        in_chains(network, x), layer_by_layer(network, x), rtol=1e-4, atol=1e-5
    )


def test_copies_and_pickles_keep_keys_chains_and_every_bit():
    network, x = classifier()
    expected, keys = in_chains(network, x), list(network.state_dict())
    assert {"conv1.packed", "first.weight"} <= set(keys)
    for twin in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        assert isinstance(twin, FusedNetwork)
        assert list(twin.state_dict()) == keys
        assert torch.equal(in_chains(twin, x), expected)
        assert twin.chains()[0] is not network.chains()[0]
        twin.first.weight.zero_()
        assert torch.equal(in_chains(network, x), expected)
    assert [name for name, _ in network.named_modules()] == [
        name for name, _ in copy.deepcopy(network).named_modules()
    ]


def test_other_types_and_gradients_run_layer_by_layer():
    network, x = classifier()
    expected = in_chains(network, x)
    torch.testing.assert_close(
        copy.deepcopy(network).double()(x.double()).float(), expected, rtol=1e-4, atol=1e-5
    )
    wanted = x.clone().requires_grad_()
    network(wanted).sum().backward()
    assert wanted.grad is not None
    assert not network(x).requires_grad  # the weights are frozen


def test_hooks_see_each_layer():
    network, x = classifier()
    calls = []
    for name, module in network.named_modules():
        if not list(module.children()):
            module.register_forward_hook(lambda m, a, y, name=name: calls.append(name))
    in_chains(network, x)
    assert calls == [
        *("first", "relu", "pool", "conv1", "conv2", "drop", "average", "hidden", "last"),
    ]


def test_training_mode_is_respected():
    network, x = classifier()
    network.drop.train()
    torch.manual_seed(1)
    one = in_chains(network, x)
    assert not torch.equal(one, in_chains(network, x))


def test_compile_and_export_see_the_layers():
    network, x = classifier()
    expected = in_chains(network, x)
    with torch.inference_mode():
        compiled = torch.compile(network, backend="aot_eager", fullgraph=True)
        torch.testing.assert_close(compiled(x), expected, rtol=1e-4, atol=1e-5)
    exported = torch.export.export(network, (x,))
    assert "ttq_energy.conv2d" in str(exported.graph)
    torch.testing.assert_close(exported.module()(x), expected, rtol=1e-4, atol=1e-5)


def test_python_threads_at_once_give_the_same_bits():
    network, x = classifier("int8")
    inputs = [x, x[:1], torch.randn(3, 3, 20, 20)]
    expected, wrong = [in_chains(network, given_) for given_ in inputs], []

    def work():
        for _ in range(20):
            for given_, y in zip(inputs, expected, strict=True):
                if not torch.equal(in_chains(network, given_), y):
                    wrong.append(1)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


class Interrupted(nn.Module):
    """An operator in the middle that no chain has, and two inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.a = packed_conv(4, 4, "int8", padding=1)
        self.b = packed_conv(4, 4, "int8", padding=1)
        self.c = packed_conv(4, 4, "int8", padding=1)

    def forward(self, x, y):
        z = self.b(F.relu(self.a(x))) + y
        return self.c(torch.sigmoid(z)) + z, z.flatten(1)


def test_chains_end_where_an_operator_is_unknown():
    torch.manual_seed(5)
    x, y = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8)
    network = fused(Interrupted(), (x, y))
    assert len(network.chains()) == 2
    for result, expected in zip(
        in_chains(network, x, y), layer_by_layer(network, x, y), strict=True
    ):
        assert torch.equal(result, expected)
    with pytest.raises(RuntimeError):
        network(x, y[:1, :, :3])


def test_arguments_may_be_named_or_left_to_their_defaults():
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = packed_conv(4, 4, "int8", padding=1)

        def forward(self, x, factor=2.0):
            return self.a(self.a(x)) * factor

    torch.manual_seed(6)
    x = torch.randn(2, 4, 8, 8)
    network = fused(Scaled(), x)
    assert torch.equal(in_chains(network, x), layer_by_layer(network, x))
    assert torch.equal(in_chains(network, x, 3.0) * 2, in_chains(network, x) * 3)
    network, x = classifier()
    with torch.inference_mode():
        assert torch.equal(network(x=x), network(x))


def test_what_runs_is_named():
    network, _ = classifier()
    name = describe(network)
    assert "ttq-energy float32 conv x1" in name
    assert "ttq-energy float32 linear x1" in name
    assert "torch" not in name
    assert "torch float64 conv x1" in describe(network.double())
