"""The dense parts of a decoding step, and layers that are called together."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from ttq_energy.kernels import decoding, isa, siblings
from ttq_energy.kernels.modules import TernaryLinear

sizes = st.sampled_from([1, 2, 3, 7, 8, 15, 16, 31, 32, 33, 64, 100, 130, 257])


@pytest.fixture(params=isa.available(), autouse=True)
def instruction_set(request):
    before = isa.active()
    isa.native().use(request.param)
    yield request.param
    isa.native().use(before)


def relative_error(y: torch.Tensor, expected: torch.Tensor) -> float:
    return float((y.double() - expected).norm() / expected.norm().clamp(min=1e-30))


@settings(max_examples=40, deadline=None)
@given(sizes, st.integers(0, 5), st.sampled_from([1e-3, 1.0, 1e3]), st.integers(0, 9))
def test_rms_norm_matches_float64(columns, rows, scale, seed):
    torch.manual_seed(seed)
    x, weight = scale * torch.randn(rows, 2, columns), torch.randn(columns)
    expected = functional.rms_norm(x.double(), (columns,), weight.double(), 1e-6)
    y = decoding.rms_norm(x, weight, 1e-6)
    assert y.shape == x.shape
    assert relative_error(y, expected) < 1e-6


@settings(max_examples=40, deadline=None)
@given(sizes, st.integers(0, 3), st.sampled_from([0.1, 3.0, 200.0]), st.integers(0, 9))
def test_swiglu_matches_float64(columns, rows, scale, seed):
    torch.manual_seed(seed)
    gate, up = scale * torch.randn(rows, columns), torch.randn(rows, columns)
    expected = functional.silu(gate.double()) * up.double()
    assert relative_error(decoding.swiglu(gate, up), expected) < 1e-6


def test_large_rows_are_shared_by_threads():
    before = torch.get_num_threads()
    x, weight = torch.randn(40, 1000), torch.randn(1000)
    alone = decoding.rms_norm(x, weight, 1e-6), decoding.swiglu(x, x)
    torch.set_num_threads(3)
    try:
        shared = decoding.rms_norm(x, weight, 1e-6), decoding.swiglu(x, x)
    finally:
        torch.set_num_threads(before)
    for one, other in zip(alone, shared, strict=True):
        assert torch.equal(one, other)


def turned(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat((-second, first), -1) * sin


@settings(max_examples=40, deadline=None)
@given(
    batch=st.integers(1, 3),
    kv_heads=st.integers(1, 3),
    group=st.integers(1, 3),
    half=st.sampled_from([1, 2, 8, 13, 32, 64]),
    position=st.sampled_from([0, 1, 2, 3, 4, 30, 31, 32, 69]),
    scale=st.sampled_from([0.1, 1.0, 10.0]),
)
def test_attention_of_one_token_matches_float64(batch, kv_heads, group, half, position, scale):
    torch.manual_seed(position)
    head_dim, capacity = 2 * half, 70
    query, key, value = (
        scale * torch.randn(batch, 1, heads * head_dim)
        for heads in (kv_heads * group, kv_heads, kv_heads)
    )
    angle = 6.3 * torch.rand(capacity, head_dim)
    cos, sin = angle.cos(), angle.sin()
    keys, values = (torch.randn(batch, kv_heads, capacity, head_dim) for _ in range(2))
    before = keys.clone(), values.clone()
    out = decoding.attend(query, key, value, cos, sin, keys, values, position)

    here = cos[position].double(), sin[position].double()
    q = turned(query.double().view(batch, kv_heads, group, head_dim), *here)
    k, v = (t.double()[:, :, : position + 1].clone() for t in before)
    k[:, :, position] = turned(key.double().view(batch, kv_heads, head_dim), *here)
    v[:, :, position] = value.double().view(batch, kv_heads, head_dim)
    weights = (q @ k.transpose(-2, -1) / head_dim**0.5).softmax(-1)
    assert out.shape == query.shape
    # Scores of some hundred are rounded to some hundred times float32's precision.
    assert relative_error(out.flatten(), (weights @ v).flatten()) < 2e-6 * max(1, scale**2)
    torch.testing.assert_close(keys[:, :, position], k[:, :, position].float())
    assert torch.equal(values[:, :, position], v[:, :, position].float())
    for held, old in zip((keys, values), before, strict=True):
        assert torch.equal(held[:, :, :position], old[:, :, :position])
        assert torch.equal(held[:, :, position + 1 :], old[:, :, position + 1 :])


def attention_arguments(position=0, **replaced):
    found = {
        "query": torch.randn(1, 1, 8),
        "key": torch.randn(1, 1, 4),
        "value": torch.randn(1, 1, 4),
        "cos": torch.randn(5, 4),
        "sin": torch.randn(5, 4),
        "keys": torch.zeros(1, 1, 5, 4),
        "values": torch.zeros(1, 1, 5, 4),
    }
    return {**found, **replaced, "position": position}


def test_attention_refuses_what_it_cannot_do():
    assert decoding.attend(**attention_arguments()) is not None
    wrong = [
        {"position": 5},
        {"position": -1},
        {"query": torch.randn(2, 1, 8)},
        {"query": torch.randn(1, 2, 8)},
        {"query": torch.randn(1, 1, 9)},
        {"key": torch.randn(1, 1, 8)},
        {"cos": torch.randn(4, 4), "position": 4},
        {"values": torch.zeros(1, 1, 4, 4)},
        {"keys": torch.zeros(1, 1, 4, 5).transpose(2, 3)},
        {"keys": torch.zeros(1, 1, 5, 4, dtype=torch.float64)},
        {"query": torch.randn(1, 1, 8, requires_grad=True)},
    ]
    for change in wrong:
        arguments = attention_arguments(**change)
        assert decoding.attend(**arguments) is None, change
        assert not arguments["keys"].any()


def test_gradients_go_through_torchs_operators():
    x = torch.randn(3, 8, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda *a: decoding.rms_norm(*a, 1e-6), (x, weight))
    single = x.detach().float().requires_grad_()
    decoding.swiglu(
        decoding.rms_norm(single, weight.detach().float(), 1e-6), single
    ).sum().backward()
    assert single.grad is not None


def test_transforms_and_compilation_see_torchs_operators():
    x, weight = torch.randn(4, 6), torch.randn(6)

    def function(x):
        return decoding.swiglu(decoding.rms_norm(x, weight, 1e-6), x)

    expected = function(x)
    torch.testing.assert_close(torch.vmap(function)(x), expected)
    _, tangent = torch.func.jvp(function, (x,), (torch.ones_like(x),))
    assert tangent.abs().sum() > 0
    compiled = torch.compile(function, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), expected)
    traced = torch.jit.trace(function, x)
    torch.testing.assert_close(traced(2 * x), function(2 * x))


def layer(out=9, columns=16, activations="fp32", bias=True):
    codes = torch.randint(-1, 2, (out, columns), dtype=torch.int8)
    return TernaryLinear(codes, 0.3, 0.2, torch.randn(out) if bias else None, activations)


@pytest.mark.parametrize("activations", ["fp32", "int8"])
@pytest.mark.parametrize("shape", [(16,), (1, 16), (2, 3, 16), (0, 16)])
def test_siblings_give_what_each_gives_alone(activations, shape):
    torch.manual_seed(0)
    layers = [layer(9, 16, activations), layer(130, 16, activations, bias=False)]
    layers[1].relu = True
    x = torch.randn(shape)
    for y, expected in zip(siblings.run(layers, x), [one(x) for one in layers], strict=True):
        assert torch.equal(y, expected)
    mixed = [layers[0], nn.Linear(16, 3)]
    for y, expected in zip(siblings.run(mixed, x), [one(x) for one in mixed], strict=True):
        assert torch.equal(y, expected)
    residual = torch.randn(*shape[:-1], 9)
    expected = residual + layers[0](x)
    torch.testing.assert_close(siblings.plus(layers[0], x, residual), expected)
    assert torch.equal(siblings.plus(layers[0], x, None), layers[0](x))


def test_hooks_on_siblings_see_each_layer():
    layers, seen = [layer(), layer()], []
    handle = layers[1].register_forward_hook(lambda module, args, y: seen.append(module))
    x = torch.randn(2, 16)
    siblings.run(layers, x)
    siblings.plus(layers[1], x, torch.zeros(2, 9))
    assert seen == [layers[1]] * 2
    handle.remove()
    everywhere = nn.modules.module.register_module_forward_hook(
        lambda module, args, y: seen.append(module)
    )
    try:
        siblings.run(layers, x)
    finally:
        everywhere.remove()
    assert seen[2:] == layers


def test_siblings_with_values_that_are_not_finite_follow_the_reference():
    layers, x = [layer(), layer()], torch.randn(2, 16)
    x[0, 3] = float("nan")
    for y, one in zip(siblings.run(layers, x), layers, strict=True):
        assert torch.equal(y.isnan(), one(x).isnan())
        assert y[0].isnan().any()
        assert not y[1].isnan().any()


def test_siblings_of_different_activations_run_one_by_one():
    layers, x = [layer(), layer(activations="int8")], torch.randn(2, 16)
    for y, one in zip(siblings.run(layers, x), layers, strict=True):
        assert torch.equal(y, one(x))
    twin = copy.deepcopy(layers[0])
    assert torch.equal(siblings.run([layers[0], twin], x)[1], layers[0](x))
