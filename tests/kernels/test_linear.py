"""Packed linear layers against float64 and against the plain reference."""

import dataclasses
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ttq_energy.errors import InputError
from ttq_energy.kernels import isa, ops, pack_linear, packing, reference, ternary_linear
from ttq_energy.kernels.modules import TernaryLinear

sizes = st.sampled_from([1, 2, 3, 4, 5, 15, 16, 17, 63, 64, 65, 100, 130, 257])
scales = st.floats(0.01, 1.0)


def random_codes(*shape: int) -> torch.Tensor:
    return torch.randint(-1, 2, shape, dtype=torch.int8)


def relative_error(y: torch.Tensor, expected: torch.Tensor) -> float:
    return float((y.double() - expected).norm() / expected.norm().clamp(min=1e-30))


@pytest.fixture(params=["avx2", "portable"])
def instruction_set(request):
    if request.param not in isa.available():
        pytest.skip(f"this CPU or build lacks {request.param}")
    before = isa.active()
    isa.native().use(request.param)
    yield request.param
    isa.native().use(before)


@settings(max_examples=60, deadline=None)
@given(sizes, sizes, st.integers(0, 70), scales, scales, st.booleans(), st.integers(0, 9))
def test_fp32_is_within_1e_5_of_float64(out, columns, rows, w_pos, w_neg, biased, seed):
    torch.manual_seed(seed)
    codes, x = random_codes(out, columns), torch.randn(rows, columns)
    bias = torch.randn(out) if biased else None
    w = pack_linear(codes, w_pos, w_neg)
    y = ternary_linear(x, w, bias)
    expected = x.double() @ w.effective_weight().double().T
    if bias is not None:
        expected = expected + bias.double()
    assert y.shape == (rows, out)
    assert rows == 0 or relative_error(y, expected) < 1e-5


@settings(max_examples=60, deadline=None)
@given(sizes, sizes, st.integers(0, 40), scales, scales, st.integers(0, 9))
def test_int8_equals_the_reference_bit_for_bit(out, columns, rows, w_pos, w_neg, seed):
    torch.manual_seed(seed)
    codes, x, bias = random_codes(out, columns), torch.randn(rows, columns), torch.randn(out)
    w = pack_linear(codes, w_pos, torch.full((out,), w_neg), "int8")
    expected = reference.linear(x, codes, w.scale_pos, w.scale_neg, bias, int8=True)
    assert torch.equal(ternary_linear(x, w, bias), expected)


@pytest.mark.parametrize("rows", [1, 3, 40])
@pytest.mark.parametrize("activations", ["fp32", "int8"])
def test_every_instruction_set_here_agrees(instruction_set, rows, activations):
    torch.manual_seed(0)
    codes, x = random_codes(130, 300), torch.randn(rows, 300)
    w = pack_linear(codes, 0.3, 0.2, activations)
    int8 = activations == "int8"
    expected = reference.linear(
        x if int8 else x.double(), codes, w.scale_pos, w.scale_neg, int8=int8
    )
    y = ternary_linear(x, w)
    assert torch.equal(y, expected) if int8 else relative_error(y, expected) < 1e-6


@pytest.mark.parametrize("columns", [2044, 2048, 2049, 4097, 8200, 11008])
def test_many_columns_agree_across_the_borders_of_chunks(instruction_set, columns):
    torch.manual_seed(columns)
    codes, x = random_codes(67, columns), torch.randn(2, columns) * torch.rand(columns) ** 8
    w = pack_linear(codes, 0.3, torch.rand(67))
    expected = x.double() @ w.effective_weight().double().T
    assert relative_error(ternary_linear(x, w), expected) < 1e-6
    w8 = pack_linear(codes, 0.3, 0.2, "int8")
    expected = reference.linear(x, codes, w8.scale_pos, w8.scale_neg, int8=True)
    assert torch.equal(ternary_linear(x, w8), expected)


@pytest.mark.parametrize("outlier", [1e2, 1e4, 1e8, 1e20])
def test_an_outlier_that_no_weight_reads_costs_no_precision(instruction_set, outlier):
    torch.manual_seed(3)
    codes, x = random_codes(100, 500), torch.randn(3, 500)
    codes[:, 7] = 0
    x[1, 7] = outlier
    w = pack_linear(codes, 0.5, 0.2)
    bias, residual = torch.randn(100), torch.randn(3, 100)
    y = ops.linear(
        x, w.packed, w.scale_pos, w.scale_neg, bias, residual, 100, int8=False, relu=False
    )
    expected = x.double() @ w.effective_weight().double().T + bias + residual
    for row in range(3):
        assert relative_error(y[row], expected[row]) < 1e-5


def test_a_weight_that_reads_one_small_activation_alone(instruction_set):
    codes = torch.zeros(130, 300, dtype=torch.int8)
    codes[:, 5] = -1
    x = torch.randn(1, 300)
    x[0, 5] = 1.2345e-6
    w = pack_linear(codes, 0.5, 0.25)
    expected = x.double() @ w.effective_weight().double().T
    assert relative_error(ternary_linear(x, w), expected) < 1e-5


@pytest.mark.parametrize("size", [1e-44, 1e-39, 1e-37, 1e-30, 1e-25, 1e25])
def test_activations_of_any_size(instruction_set, size):
    torch.manual_seed(4)
    codes, x = random_codes(70, 90), torch.randn(2, 90).double() * size
    x = x.float()
    w = pack_linear(codes, 1.0, 0.5)
    expected = x.double() @ w.effective_weight().double().T
    y = ternary_linear(x, w).double()
    assert (y - expected).norm() <= 1e-5 * expected.norm() + 1e-43 * 70**0.5


@pytest.mark.parametrize("activations", ["fp32", "int8"])
@pytest.mark.parametrize("rows", [1, 20])
def test_a_million_equal_products_neither_overflow_nor_drift(activations, rows):
    columns = 1 << 20
    x = torch.full((rows, columns), 3.0)
    for code in (1, -1):
        codes = torch.full((2, columns), code, dtype=torch.int8)
        y = ternary_linear(x, pack_linear(codes, 0.7, 0.7, activations))
        expected = torch.full((rows, 2), code * 3.0 * columns * 0.7, dtype=torch.float64)
        assert relative_error(y, expected) < 1e-5


def test_scales_a_hundred_to_one_stay_exact():
    torch.manual_seed(1)
    codes, x = random_codes(40, 500), torch.randn(9, 500)
    for w_pos, w_neg in ((1.0, 0.01), (0.01, 1.0), (0.5, 0.0)):
        w = pack_linear(codes, w_pos, w_neg)
        expected = x.double() @ w.effective_weight().double().T
        assert relative_error(ternary_linear(x, w), expected) < 1e-6
        small = pack_linear(codes, w_pos, w_neg, "int8")
        expected_int8 = reference.linear(x, codes, small.scale_pos, small.scale_neg, int8=True)
        assert torch.equal(ternary_linear(x, small), expected_int8)


@pytest.mark.parametrize("rows", [1, 40])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_non_finite_activations_propagate_as_in_the_reference(rows, value):
    torch.manual_seed(2)
    codes, x = random_codes(70, 50), torch.randn(rows, 50)
    x[0, 7] = value
    for activations in ("fp32", "int8"):
        w = pack_linear(codes, 0.3, 0.2, activations)
        int8 = activations == "int8"
        expected = reference.linear(x, codes, w.scale_pos, w.scale_neg, int8=int8)
        torch.testing.assert_close(ternary_linear(x, w), expected, equal_nan=True)


def test_zero_rows_tiny_rows_and_empty_batches():
    codes = random_codes(5, 12)
    w = pack_linear(codes, 1.0, 1.0, "int8")
    assert torch.equal(ternary_linear(torch.zeros(3, 12), w), torch.zeros(3, 5))
    assert torch.equal(ternary_linear(torch.full((1, 12), 1e-38), w), torch.zeros(1, 5))
    assert ternary_linear(torch.zeros(0, 4, 12), w).shape == (0, 4, 5)


def test_non_contiguous_inputs_and_leading_dimensions():
    torch.manual_seed(3)
    codes, base = random_codes(33, 20), torch.randn(20, 6, 4)
    x = base.permute(2, 1, 0)
    w = pack_linear(codes, 0.3, 0.2)
    assert not x.is_contiguous()
    torch.testing.assert_close(ternary_linear(x, w), x @ w.effective_weight().T)


def test_ties_round_to_even():
    x = torch.tensor([[127.0, 0.5, 1.5, 2.5, -0.5, -1.5]])
    integers, scale = reference.quantize_rows(x)
    assert integers.tolist() == [[127, 0, 2, 2, 0, -2]]
    assert scale.item() == 1.0
    w = pack_linear(torch.eye(6, dtype=torch.int8), 1.0, 1.0, "int8")
    assert ternary_linear(x, w).tolist() == [[127, 0, 2, 2, 0, -2]]


def test_the_gradient_reaches_the_activations():
    codes, x = random_codes(6, 8), torch.randn(3, 8, requires_grad=True)
    w = pack_linear(codes, 0.3, 0.2)
    ternary_linear(x, w).sum().backward()
    torch.testing.assert_close(x.grad, w.effective_weight().sum(0).expand(3, 8))


def test_unpack_gives_back_what_was_packed():
    torch.manual_seed(4)
    for out, columns in ((1, 1), (7, 3), (64, 64), (65, 130), (200, 9)):
        codes, w_pos = random_codes(out, columns), torch.rand(out)
        w = pack_linear(codes, w_pos, 0.25)
        unpacked, pos, neg = w.unpack()
        assert torch.equal(unpacked, codes)
        assert torch.equal(pos, w_pos)
        assert neg.item() == 0.25
        portable = packing.to_portable(w.packed, w.shape)
        assert torch.equal(portable, reference.pack_matrix(codes))


def foreign_bytes(codes: torch.Tensor, int8: bool) -> torch.Tensor:
    """Codes packed as AVX-512's kernels like them (src/layout.h), which any machine can write."""
    return isa._pack(codes, isa.native().packed_bytes(2 if int8 else 1, *codes.shape))


@pytest.mark.parametrize("int8", [False, True])
@pytest.mark.parametrize(("out", "columns"), [(64, 300), (200, 257), (1000, 999)])
def test_weights_packed_for_another_instruction_set_run(out, columns, int8):
    torch.manual_seed(5)
    activations = "int8" if int8 else "fp32"
    codes, x = random_codes(out, columns), torch.randn(3, columns)
    own = pack_linear(codes, 0.3, 0.2, activations)
    foreign = dataclasses.replace(own, packed=foreign_bytes(codes, int8))
    assert torch.equal(foreign.codes(), codes)
    torch.testing.assert_close(ternary_linear(x, foreign), ternary_linear(x, own))
    assert foreign.weight_bytes * 8 <= 2.1 * out * columns + 64 * 8

    layer = TernaryLinear(codes, 0.3, 0.2, activations=activations)
    expected = layer(x)
    layer.packed = foreign_bytes(codes, int8)
    assert torch.equal(layer.state_dict()["packed"], reference.pack_matrix(codes))
    torch.testing.assert_close(layer(x), expected)
    assert torch.equal(pickle.loads(pickle.dumps(layer)).packed, own.packed)
    layer.load_state_dict(layer.state_dict())
    assert torch.equal(layer.packed, own.packed)
    layer.packed = foreign_bytes(codes, int8)
    assert layer.to("meta").packed.numel() == reference.packed_bytes(out, columns)


def test_weights_take_two_bits_each():
    w = pack_linear(random_codes(1000, 1024), 0.3, 0.2)
    assert w.weight_bytes * 8 <= 2.1 * 1000 * 1024


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: pack_linear(torch.zeros(2, 2), 1, 1), "int8"),
        (lambda: pack_linear(torch.zeros(2, dtype=torch.int8), 1, 1), "(out, in)"),
        (lambda: pack_linear(torch.full((2, 2), 3, dtype=torch.int8), 1, 1), "got 3"),
        (lambda: pack_linear(random_codes(2, 2), 1, -1), "w_neg"),
        (lambda: pack_linear(random_codes(2, 2), torch.rand(3), 1), "w_pos"),
        (lambda: pack_linear(random_codes(2, 2), float("nan"), 1), "w_pos"),
        (lambda: pack_linear(random_codes(2, 2), 1, 1, "int9"), "did you mean 'int8'"),
        (lambda: pack_linear(random_codes(0, 2), 1, 1), "at least 1"),
        (lambda: ternary_linear(torch.zeros(3, 5), pack_linear(random_codes(2, 4), 1, 1)), "4"),
        (
            lambda: ternary_linear(
                torch.zeros(3, 4), pack_linear(random_codes(2, 4), 1, 1), torch.zeros(3)
            ),
            "bias",
        ),
    ],
)
def test_bad_arguments_get_one_clear_line(call, message):
    with pytest.raises(InputError) as caught:
        call()
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_int8_rounds_as_the_rule_says_where_two_integers_are_equally_near():
    torch.manual_seed(2)
    largest = torch.rand(5000) * 4 + 0.1
    nearly_half = (torch.randint(0, 126, (5000,)) + 0.5) * largest / 127
    x = torch.stack([largest, nearly_half], 1)
    codes = torch.tensor([[0, 1]], dtype=torch.int8)
    w = pack_linear(codes, 0.7, 0.7, activations="int8")
    expected = reference.linear(x, codes, w.scale_pos, w.scale_neg, int8=True)
    assert torch.equal(ternary_linear(x, w), expected)


@pytest.mark.parametrize("activations", ["fp32", "int8"])
@pytest.mark.parametrize("rows", [1, 3, 20])
def test_several_matrices_on_one_input_give_what_each_gives_alone(
    instruction_set, activations, rows
):
    torch.manual_seed(1)
    x = torch.randn(rows, 300)
    weights = [
        pack_linear(random_codes(out, 300), 0.3, torch.rand(out), activations)
        for out in (70, 1, 256, 513)
    ]
    biases = [None, torch.randn(1), torch.randn(256), None]
    matrices = [
        ops.Matrix(w.packed, w.scale_pos, w.scale_neg, bias, w.shape[0], relu=w.shape[0] == 256)
        for w, bias in zip(weights, biases, strict=True)
    ]
    together = ops.linear_many(x, matrices, activations == "int8")
    for y, w, bias, matrix in zip(together, weights, biases, matrices, strict=True):
        alone = ternary_linear(x, w, bias)
        assert torch.equal(y, alone.relu() if matrix.relu else alone)


@pytest.mark.parametrize(
    "x", [torch.full((2, 8), float("nan")), torch.zeros(0, 8), torch.randn(2, 8).double()]
)
def test_several_matrices_take_any_input(x):
    w = pack_linear(random_codes(5, 8), 0.3, 0.2)
    matrix = ops.Matrix(w.packed, w.scale_pos, w.scale_neg, None, 5)
    (y,) = ops.linear_many(x, [matrix], int8=False)
    assert (
        torch.equal(
            y,
            ternary_linear(x, w),
        )
        or y.isnan().all()
    )
