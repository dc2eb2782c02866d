"""What can be checked of forms, baselines and residency without a GPU."""

import pytest
import torch
from torch import nn

from ttq_energy.errors import InputError
from ttq_energy.kernels import gpu
from ttq_energy.kernels.gpu import baselines, forms, operators
from ttq_energy.kernels.modules import TernaryLinear


def test_calls_are_timed_in_turns_by_blocks():
    now = [0.0]
    order = []

    def call(name, seconds):
        def run():
            order.append(name)
            now[0] += seconds

        return run

    times = forms.interleaved(
        [call("a", 0.01), call("b", 0.025)],
        lambda: None,
        rounds=5,
        block_s=0.05,
        clock=lambda: now[0],
    )
    assert times == [pytest.approx([0.01] * 5), pytest.approx([0.025] * 5)]
    rounds = "".join(order[2:]).replace("aaaaa", "A").replace("bb", "B")
    assert sorted(rounds) == ["A"] * 5 + ["B"] * 5
    assert rounds not in ("AB" * 5, "AAAAABBBBB"), "the order is not random"


def test_the_faster_form_is_kept_and_one_that_fails_left_out(monkeypatch):
    def broken():
        raise RuntimeError("cannot be captured")

    monkeypatch.setattr(forms, "interleaved", lambda calls, sync: [[3.0, 3.1], [1.0, 9.0, 1.1]])
    ways = [broken, lambda: (nn.Identity(), "slow"), lambda: (nn.Identity(), "fast")]
    assert forms.fastest(ways, torch.zeros(1))[1] == "fast"
    with pytest.raises(RuntimeError, match="no form"):
        forms.fastest([broken], torch.zeros(1))


def test_activations_change_and_ternary_scales_stay():
    codes = torch.randint(-1, 2, (8, 16), dtype=torch.int8)
    packed = nn.Sequential(nn.Linear(16, 16), TernaryLinear(codes, 0.7, 0.3, torch.randn(8)))
    network = forms.with_activations(packed, torch.bfloat16)
    dense, ternary = network.module
    assert dense.weight.dtype == torch.bfloat16
    assert ternary.w_pos.dtype == torch.float32
    assert packed[0].weight.dtype == torch.float32, "the original was changed"
    x = torch.randn(2, 16)
    with torch.inference_mode():
        y, expected = network(x), packed(x)
    assert y.dtype == torch.float32
    assert (y - expected).norm() < 0.02 * expected.norm()


def test_int8_networks_keep_layers_that_do_not_fit_in_bfloat16():
    model = nn.Sequential(nn.Linear(16, 24), nn.Linear(24, 3))
    network, changed = baselines.int8_network(model)
    assert changed == 1
    assert isinstance(network[0], baselines.Int8Linear)
    assert network[1].weight.dtype == torch.bfloat16


def test_an_int8_layer_is_close_to_the_dense_one():
    torch.manual_seed(0)
    dense = nn.Linear(64, 32)
    x = torch.randn(3, 64)
    y = baselines.Int8Linear(dense)(x)
    assert (y - dense(x)).norm() < 0.02 * dense(x).norm()


def test_unknown_names_say_the_nearest():
    with pytest.raises(InputError, match="did you mean 'bf16'"):
        baselines.ways(nn.Linear(8, 8), torch.zeros(1, 8), "bf61")
    with pytest.raises(InputError, match="CUDA tensor"):
        gpu.graphed(nn.Identity(), torch.zeros(1))


def test_weights_are_laid_out_once_until_they_change():
    layer = TernaryLinear(torch.randint(-1, 2, (8, 16), dtype=torch.int8), 0.7, 0.3)
    arguments = (layer.packed, layer.scale_pos, layer.scale_neg, (8, 16), False)
    first = operators.resident(*arguments)
    assert operators.resident(*arguments) is first
    layer.packed.zero_()
    second = operators.resident(*arguments)
    assert second is not first
    assert not second.codes().any()
    assert operators.describe(layer) == "triton 2-bit, not run yet x1"
