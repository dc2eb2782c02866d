"""The published rules and their gradients, against formulas written out in float64."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import ttq_energy as te
from ttq_energy.quantization import rules
from ttq_energy.quantization.quantizer import Quantizer

SHAPES = st.tuples(st.integers(1, 7), st.integers(1, 9), st.sampled_from([(), (1,), (3,), (3, 2)]))
PER = st.sampled_from(["layer", "channel"])


def latent(shape, seed):
    generator = torch.Generator().manual_seed(seed)
    out, inner, kernel = shape
    return torch.randn(out, inner, *kernel, generator=generator, dtype=torch.float64)


def as_blocks(w, per):
    return w.reshape(w.shape[0], -1) if per == "channel" else w.reshape(1, -1)


def run(config, w, gradient):
    """The quantized weight, and the gradients of everything that is trained."""
    w = w.clone().requires_grad_()
    quantizer = Quantizer(config, w.detach())
    value = quantizer(w)
    value.backward(gradient)
    return value.detach(), w.grad, quantizer


@settings(max_examples=60, deadline=None)
@given(SHAPES, PER, st.integers(0, 10_000), st.floats(0.0, 0.9), st.booleans())
def test_ttq_follows_the_paper(shape, per, seed, threshold, symmetric):
    config = te.TTQ(threshold=threshold, per=per, symmetric=symmetric)
    w = latent(shape, seed)
    gradient = latent(shape, seed + 1)
    value, latent_grad, quantizer = run(config, w, gradient)

    blocks, g = as_blocks(w, per), as_blocks(gradient, per)
    delta = threshold * blocks.abs().amax(1, keepdim=True)
    positive, negative = blocks > delta, blocks < -delta
    w_pos = quantizer.w_pos.detach()[:, None]
    w_neg = w_pos if symmetric else quantizer.w_neg.detach()[:, None]
    assert torch.equal(as_blocks(value, per), positive * w_pos - negative * w_neg)

    zone = positive * w_pos + negative * w_neg + ~(positive | negative) * 1.0
    torch.testing.assert_close(as_blocks(latent_grad, per), g * zone)
    to_pos, to_neg = (g * positive).sum(1), -(g * negative).sum(1)
    if symmetric:
        torch.testing.assert_close(quantizer.w_pos.grad, to_pos + to_neg)
        assert not hasattr(quantizer, "w_neg")
    else:
        torch.testing.assert_close(quantizer.w_pos.grad, to_pos)
        torch.testing.assert_close(quantizer.w_neg.grad, to_neg)


@settings(max_examples=30, deadline=None)
@given(SHAPES, PER, st.integers(0, 10_000))
def test_scale_gradients_are_those_of_float64_autograd(shape, per, seed):
    """Autograd through w = Wp [w > D] - Wn [w < -D], the sign of dL/dWn with it."""
    w, gradient = latent(shape, seed), latent(shape, seed + 1)
    _, _, quantizer = run(te.TTQ(threshold=0.3, per=per), w, gradient)
    w_pos = quantizer.w_pos.detach().clone().requires_grad_()
    w_neg = quantizer.w_neg.detach().clone().requires_grad_()
    blocks = as_blocks(w, per)
    delta = 0.3 * blocks.abs().amax(1, keepdim=True)
    value = (blocks > delta) * w_pos[:, None] - (blocks < -delta) * w_neg[:, None]
    (value * as_blocks(gradient, per)).sum().backward()
    torch.testing.assert_close(quantizer.w_pos.grad, w_pos.grad)
    torch.testing.assert_close(quantizer.w_neg.grad, w_neg.grad)


def test_scale_gradients_are_finite_differences():
    w = latent((4, 5, (3,)), 0)
    quantizer = Quantizer(te.TTQ(threshold=0.2), w)
    target = latent((4, 5, (3,)), 1)

    def loss():
        return ((quantizer(w.requires_grad_()) - target) ** 2).sum()

    loss().backward()
    step = 1e-6
    for scale in (quantizer.w_pos, quantizer.w_neg):
        with torch.no_grad():
            scale += step
            above = loss()
            scale -= 2 * step
            below = loss()
            scale += step
        assert float(above - below) / (2 * step) == pytest.approx(float(scale.grad), rel=1e-6)


@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.5, 0.8])
def test_ttq_reaches_the_sparsity_asked_for(sparsity):
    w = latent((20, 50, ()), 3)
    value, _, _ = run(te.TTQ(sparsity=sparsity), w, torch.ones_like(w))
    assert float((value == 0).double().mean()) == pytest.approx(sparsity)
    kept = value != 0
    if sparsity:
        assert w[kept].abs().min() > w[~kept].abs().max()


def test_ttq_scales_start_at_the_means_they_stand_for():
    w = latent((6, 7, ()), 5)
    delta = 0.05 * w.abs().max()
    quantizer = Quantizer(te.TTQ(), w)
    torch.testing.assert_close(quantizer.w_pos.detach(), w[w > delta].mean()[None])
    torch.testing.assert_close(quantizer.w_neg.detach(), -w[w < -delta].mean()[None])
    ones = Quantizer(te.TTQ(initial_scales="one"), w)
    assert float(ones.w_pos) == float(ones.w_neg) == 1.0


def test_fixed_scales_are_no_parameters():
    quantizer = Quantizer(te.TTQ(learn_scales=False), latent((3, 4, ()), 0))
    assert list(quantizer.parameters()) == []
    assert set(quantizer.state_dict()) == {"w_pos", "w_neg"}


def test_a_scale_that_crosses_zero_keeps_the_weights_signs():
    w = latent((3, 4, ()), 0)
    quantizer = Quantizer(te.TTQ(), w)
    with torch.no_grad():
        quantizer.w_pos.neg_()
    value = quantizer(w.clone().requires_grad_())
    assert bool((value[w > 0.05 * w.abs().max()] > 0).all())
    value.sum().backward()
    assert float(quantizer.w_pos.grad) < 0


@settings(max_examples=40, deadline=None)
@given(SHAPES, PER, st.integers(0, 10_000))
def test_twn(shape, per, seed):
    w, gradient = latent(shape, seed), latent(shape, seed + 1)
    value, latent_grad, _ = run(te.TWN(per=per), w, gradient)
    for row, got in zip(as_blocks(w, per).numpy(), as_blocks(value, per).numpy(), strict=True):
        kept = np.abs(row) > 0.7 * np.abs(row).mean()
        scale = np.abs(row[kept]).mean() if kept.any() else 0.0
        np.testing.assert_allclose(got, scale * np.sign(row) * kept)
    assert torch.equal(latent_grad, gradient)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000))
def test_twn_scale_is_optimal_for_its_threshold(seed):
    """No other scale brings the ternary weights nearer to the latent ones."""
    w = latent((5, 6, ()), seed)
    value, _, _ = run(te.TWN(), w, torch.ones_like(w))
    error = float(((w - value) ** 2).sum())
    assert all(float(((w - value * f) ** 2).sum()) > error for f in (0.99, 1.01))


@settings(max_examples=40, deadline=None)
@given(SHAPES, PER, st.integers(0, 10_000))
def test_bwn(shape, per, seed):
    w, gradient = latent(shape, seed), latent(shape, seed + 1)
    w.flatten()[0] = 0.0
    value, latent_grad, _ = run(te.BWN(per=per), w, gradient)
    blocks = as_blocks(w, per)
    scale = blocks.abs().mean(1, keepdim=True)
    sign = torch.where(blocks >= 0, 1.0, -1.0)
    torch.testing.assert_close(as_blocks(value, per), scale * sign)
    factor = 1 / blocks.shape[1] + scale * (blocks.abs() <= 1)
    torch.testing.assert_close(as_blocks(latent_grad, per), as_blocks(gradient, per) * factor)


@settings(max_examples=40, deadline=None)
@given(SHAPES, st.integers(2, 8), st.integers(0, 10_000))
def test_dorefa_with_several_bits(shape, bits, seed):
    w, gradient = latent(shape, seed), latent(shape, seed + 1)
    value, latent_grad, _ = run(te.DoReFa(bits=bits), w, gradient)
    squashed = np.tanh(w.numpy())
    unit = squashed / (2 * np.abs(squashed).max()) + 0.5
    steps = 2**bits - 1
    np.testing.assert_allclose(value.numpy(), 2 * np.round(unit * steps) / steps - 1, atol=1e-12)
    # Straight through the rounding, the gradient is that of tanh(w) / max|tanh(w)|.
    reference = w.clone().requires_grad_()
    (reference.tanh() / reference.tanh().abs().max() * gradient).sum().backward()
    torch.testing.assert_close(latent_grad, reference.grad)


def test_dorefa_with_one_bit():
    w, gradient = latent((4, 5, ()), 0), latent((4, 5, ()), 1)
    value, latent_grad, _ = run(te.DoReFa(), w, gradient)
    torch.testing.assert_close(value, w.abs().mean() * torch.sign(w))
    assert torch.equal(latent_grad, gradient)


@settings(max_examples=40, deadline=None)
@given(SHAPES, PER, st.integers(0, 10_000))
def test_absmean(shape, per, seed):
    w, gradient = latent(shape, seed), latent(shape, seed + 1)
    value, latent_grad, _ = run(te.AbsMean(per=per), w, gradient)
    blocks = as_blocks(w, per)
    scale = blocks.abs().mean(1, keepdim=True).clamp(min=1e-5)
    torch.testing.assert_close(
        as_blocks(value, per), scale * torch.clamp(torch.round(blocks / scale), -1, 1)
    )
    assert torch.equal(latent_grad, gradient)


@pytest.mark.parametrize("config", [te.TTQ(), te.TWN(), te.BWN(), te.DoReFa(bits=2), te.AbsMean()])
def test_all_zero_weights_give_finite_values_and_gradients(config):
    value, latent_grad, _ = run(config, torch.zeros(3, 4), torch.ones(3, 4))
    assert bool(torch.isfinite(value).all())
    assert bool(torch.isfinite(latent_grad).all())


def test_three_layers_in_one_weight_have_a_pair_of_scales_each():
    w = torch.cat([latent((2, 4, ()), 0), 10 * latent((2, 4, ()), 1), latent((2, 4, ()), 2)])
    quantizer = Quantizer(te.TTQ(), w, parts=3)
    assert quantizer.w_pos.shape == (3,)
    for part, alone in zip(quantizer(w).chunk(3), w.chunk(3), strict=True):
        assert torch.equal(part, Quantizer(te.TTQ(), alone)(alone))
    assert rules.block_count(te.TTQ(per="channel"), 6, 3) == 6
