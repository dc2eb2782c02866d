"""The GPU's weight layout, which needs neither Triton nor a GPU."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ttq_energy.errors import InputError
from ttq_energy.kernels import pack_conv2d, pack_linear
from ttq_energy.kernels.gpu import layout

SEEDS = st.integers(0, 2**31)
ACTIVATIONS = st.sampled_from(["fp32", "int8"])


def codes_of(seed, *shape):
    torch.manual_seed(seed)
    return torch.randint(-1, 2, shape, dtype=torch.int8)


@settings(deadline=None, max_examples=40)
@given(SEEDS, st.integers(1, 80), st.integers(1, 700), ACTIVATIONS)
def test_linear_codes_come_back(seed, rows, columns, activations):
    codes = codes_of(seed, rows, columns)
    weight = layout.repack(pack_linear(codes, 0.7, 0.3, activations))
    assert torch.equal(weight.codes(), codes)


@settings(deadline=None, max_examples=40)
@given(SEEDS, st.integers(1, 9), st.integers(1, 70), st.integers(1, 3), ACTIVATIONS)
def test_convolution_codes_come_back(seed, out, channels, kernel, activations):
    codes = codes_of(seed, out, channels, kernel, kernel)
    packed = pack_conv2d(codes, 0.7, 0.3, activations)
    weight = layout.repack(packed)
    assert torch.equal(weight.codes(), codes)
    assert torch.equal(weight.effective_weight(), packed.effective_weight())


def test_a_code_at_the_top_of_a_word_is_a_number():
    words = layout.pack_words(torch.tensor([[1], [-1], [0]], dtype=torch.int8), 16)
    top = (words[0, :, 0].to(torch.int32) << 8).to(torch.int16) & -16384
    assert top.view(torch.bfloat16).tolist() == [2.0, -2.0, 0.0]
    assert top.view(torch.float16).tolist() == [2.0, -2.0, 0.0]
    bytes_ = words[0, :, :1].contiguous().view(torch.int8)[:, 0] & -64
    assert bytes_.tolist() == [64, -64, 0]


@pytest.mark.parametrize(("columns", "group"), [(4096, 64), (768, 32), (640, 16), (100, 16)])
def test_the_block_width_pads_the_least(columns, group):
    assert layout.choose_group(columns) == group


def test_weight_bytes_are_two_bits_a_code_and_the_scales():
    weight = layout.repack(pack_linear(codes_of(0, 64, 1024), 0.7, 0.3))
    assert weight.weight_bytes == 64 * 1024 // 4 + 2 * 4 * 64


@settings(deadline=None, max_examples=20)
@given(SEEDS, st.sampled_from([torch.bfloat16, torch.float16]))
def test_row_values_are_the_scales_rounded_once(seed, dtype):
    torch.manual_seed(seed)
    pos, neg = torch.randn(20), torch.randn(20)
    pos[0] = neg[0] = 0.0
    weight = layout.from_codes(codes_of(seed, 20, 16), pos, neg, "fp32")
    values, factor = weight.row_values(dtype)
    plus = (values & 0xFFFF).to(torch.int16).view(dtype).double() * factor
    minus = ((values ^ (values >> 16)) & 0xFFFF).to(torch.int16).view(dtype).double() * factor
    torch.testing.assert_close(plus, pos.double(), rtol=torch.finfo(dtype).eps, atol=1e-7)
    torch.testing.assert_close(minus, -neg.double(), rtol=torch.finfo(dtype).eps, atol=1e-7)


def test_too_many_columns_for_int32_sums_are_refused():
    codes = torch.ones(1, layout.LARGEST_INT8_COLUMNS + 1, dtype=torch.int8)
    with pytest.raises(InputError, match="int8 activations"):
        layout.repack(pack_linear(codes, 1.0, 1.0, "int8"))


def test_counters_that_a_graph_may_hold_stay_where_they_are():
    weight = layout.repack(pack_linear(codes_of(0, 4, 16), 1.0, 1.0))
    few = weight.counters(3, stream=7)
    many = weight.counters(5000, stream=7)
    assert many.numel() >= 5000
    assert not many.any()
    assert weight.counters(3, stream=7) is few
    assert weight.counters(3, stream=8) is not few
