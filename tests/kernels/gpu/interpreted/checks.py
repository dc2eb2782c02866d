"""Every GPU kernel in Triton's interpreter against float64; run by test_interpreted.py."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ttq_energy.kernels import ops, pack_conv2d, pack_linear, reference
from ttq_energy.kernels.gpu import functional, launch, layout, operators
from ttq_energy.kernels.gpu.paths import Path

# Of bfloat16 the interpreter drops the bits that hardware rounds: 2^-8 instead of 2^-9.
TOLERANCE = {torch.float32: 5e-7, torch.bfloat16: 6e-3, torch.float16: 8e-4}
DTYPES = st.sampled_from(list(TOLERANCE))
SCALES = st.sampled_from([(0.7, 0.3), (0.5, 0.5), (0.2, 1.1), (0.0, 0.4)])
SEEDS = st.integers(0, 2**31)

few = settings(
    max_examples=6,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)


def codes_of(*shape):
    return torch.randint(-1, 2, shape, dtype=torch.int8)


def distance(y, expected):
    """Relative to the expected values; NaN where y was not written."""
    expected = expected.detach()
    return float((y.double() - expected).norm() / expected.norm().clamp_min(1e-30))


def exact_products(weight):
    return "signed" if weight.symmetric else "both"


def dense(weight):
    return weight.effective_weight().double()


@few
@given(SEEDS, DTYPES, SCALES, st.integers(1, 20), st.integers(1, 70), st.integers(1, 300))
@pytest.mark.parametrize("unrolled", [True, False])
def test_linear_tile(unrolled, seed, dtype, scales, batch, rows, columns):
    torch.manual_seed(seed)
    weight = layout.pack_linear_gpu(codes_of(rows, columns), *scales, device="cpu")
    x, bias = torch.randn(batch, columns).to(dtype), torch.randn(rows)
    path = Path("tile", exact_products(weight), 32, 16, unrolled)
    y = functional.linear(x, weight, bias, path=path)
    expected = x.double() @ dense(weight).t() + bias
    assert y.dtype == dtype
    assert distance(y, expected) < TOLERANCE[dtype]


@few
@given(SEEDS, SCALES, st.integers(130, 500), st.integers(2, 4), st.booleans())
def test_split_columns_with_residual_and_relu(seed, scales, columns, parts, int8):
    torch.manual_seed(seed)
    activations = "int8" if int8 else "fp32"
    weight = layout.pack_linear_gpu(codes_of(24, columns), *scales, activations, device="cpu")
    x, residual = torch.randn(3, columns), torch.randn(3, 24)
    path = Path("tile", exact_products(weight), 16, 16, True, parts)
    y = functional.linear(x, weight, None, residual, relu=True, path=path)
    again = functional.linear(x, weight, None, residual, relu=True, path=path)
    expected = reference.linear(
        x if int8 else x.double(),
        weight.codes(),
        weight.scale_pos,
        weight.scale_neg,
        None,
        residual,
        int8=int8,
        relu=True,
    ).double()
    assert distance(y, expected) < TOLERANCE[torch.float32]
    assert torch.equal(y, again), "the counters were not left zero, or the order changed"


@few
@given(SEEDS, DTYPES, SCALES, st.integers(1, 50), st.integers(1, 300), st.integers(1, 2))
def test_linear_vector(seed, dtype, scales, rows, columns, parts):
    torch.manual_seed(seed)
    weight = layout.pack_linear_gpu(codes_of(rows, columns), *scales, device="cpu")
    x, bias = torch.randn(1, columns).to(dtype), torch.randn(rows)
    path = Path("vector", exact_products(weight), 16, 1, True, parts)
    y = functional.linear(x, weight, bias, path=path)
    assert distance(y, x.double() @ dense(weight).t() + bias) < TOLERANCE[dtype]


@few
@given(SEEDS, SCALES, st.integers(1, 20), st.integers(1, 40), st.integers(1, 300), st.booleans())
def test_int8_linear_gives_the_reference_bit_for_bit(seed, scales, batch, rows, columns, unrolled):
    torch.manual_seed(seed)
    weight = layout.pack_linear_gpu(codes_of(rows, columns), *scales, "int8", device="cpu")
    x = torch.randn(batch, columns) * 10 ** torch.randint(-3, 3, (batch, 1)).float()
    x[0] = 0.0
    path = Path("tile", "both", 16, 16, unrolled)
    y = functional.linear(x, weight, path=path)
    expected = reference.linear(x, weight.codes(), weight.scale_pos, weight.scale_neg, int8=True)
    assert torch.equal(y, expected)


def test_an_infinity_makes_its_int8_row_nan_and_no_other():
    weight = layout.pack_linear_gpu(codes_of(5, 40), 1.0, 0.5, "int8", device="cpu")
    x = torch.randn(3, 40)
    x[0, 3], x[2, 7] = float("inf"), float("nan")
    y = functional.linear(x, weight, path=Path("tile", "both", 16, 16, True))
    assert y[[0, 2]].isnan().all()
    assert y[1].isfinite().all()


@few
@given(SEEDS, st.sampled_from([torch.bfloat16, torch.float16]), SCALES, st.integers(1, 40))
def test_rounded_values_err_no_more_than_dense_ones(seed, dtype, scales, columns):
    torch.manual_seed(seed)
    weight = layout.pack_linear_gpu(codes_of(20, columns), *scales, device="cpu")
    x = torch.randn(4, columns).to(dtype)
    expected = x.double() @ dense(weight).t()
    room = torch.finfo(dtype).eps * (x.double().abs() @ dense(weight).abs().t())
    for path in (Path("tile", "rounded", 16, 16, False), Path("dense")):
        y = functional.linear(x, weight, path=path).double()
        assert ((y - expected).abs() <= 2 * room + 1e-12).all(), path


def test_scales_of_each_row_and_negative_ones_from_a_folded_norm():
    codes, pos, neg = codes_of(12, 64), torch.randn(12), torch.randn(12)
    weight = layout.from_codes(codes, pos, neg, "fp32")
    x = torch.randn(2, 64)
    expected = x.double() @ dense(weight).t()
    for path in (Path("tile", "both", 16, 16, True), Path("tile", "both", 16, 16, False)):
        assert distance(functional.linear(x, weight, path=path), expected) < 1e-6
    half = x.half()
    y = functional.linear(half, weight, path=Path("tile", "rounded", 16, 16, False))
    assert distance(y, half.double() @ dense(weight).t()) < 2e-3


GEOMETRIES = {
    "3 channels, stride 2": (3, 8, 1, 3, 2, 1, 1),
    "dilated": (16, 12, 1, 3, 1, 2, 2),
    "two groups, 1x1": (32, 6, 2, 1, 1, 0, 1),
    "depthwise": (4, 4, 4, 3, 1, 1, 1),
    "padded channels": (20, 5, 1, 2, 1, 0, 1),
}


@pytest.mark.parametrize("case", GEOMETRIES)
@pytest.mark.parametrize("kind", ["float32", "float16", "int8", "dense", "rounded"])
def test_conv2d(case, kind):
    channels, out, groups, kernel, stride, padding, dilation = GEOMETRIES[case]
    torch.manual_seed(len(case))
    int8 = kind == "int8"
    weight = layout.pack_conv2d_gpu(
        codes_of(out, channels // groups, kernel, kernel),
        0.7,
        0.3,
        "int8" if int8 else "fp32",
        device="cpu",
    )
    dtype = torch.float32 if kind in ("float32", "int8") else torch.float16
    x, bias = torch.randn(2, channels, 5, 4).to(dtype), torch.randn(out)
    geometry = {
        "stride": (stride, stride),
        "padding": (padding, padding),
        "dilation": (dilation, dilation),
        "groups": groups,
    }
    scales = weight.scale_pos, weight.scale_neg
    expected = reference.conv2d(
        x if int8 else x.double(), weight.codes(), *scales, bias, **geometry, int8=int8
    )
    if kind == "dense":
        path = Path("dense")
    else:
        products = "rounded" if kind == "rounded" else "both"
        path = Path("tile", products, 16, 32, False, 2 if kind == "float32" else 1)
    y = functional.conv2d(x, weight, bias, **geometry, path=path)
    assert y.is_contiguous(memory_format=torch.channels_last)
    if int8:
        assert torch.equal(y, expected)
    else:
        assert distance(y, expected.double()) < (1e-6 if kind == "float32" else 1e-3)


def test_conv2d_residual_and_relu_in_either_memory_format():
    weight = layout.pack_conv2d_gpu(codes_of(4, 16, 1, 1), 0.7, 0.3, device="cpu")
    x, residual = torch.randn(1, 16, 3, 3), torch.randn(1, 4, 3, 3)
    expected = reference.conv2d(
        x.double(), weight.codes(), weight.scale_pos, weight.scale_neg, None, residual, relu=True
    )
    path = Path("tile", "both", 16, 16, False)
    for memory_format in (torch.contiguous_format, torch.channels_last):
        y = functional.conv2d(
            x.contiguous(memory_format=memory_format), weight, None, residual, relu=True, path=path
        )
        assert distance(y, expected) < 1e-6


@pytest.mark.parametrize("kernel", ["step", "linear"])
@pytest.mark.parametrize("hidden", [8, 20])
def test_lstm_step(kernel, hidden):
    torch.manual_seed(hidden)
    weight = layout.pack_linear_gpu(codes_of(4 * hidden, hidden), 0.7, 0.2, device="cpu")
    gates, h, c, bias = (
        torch.randn(*s) for s in ((3, 4 * hidden), (3, hidden), (3, hidden), (4 * hidden,))
    )
    total = gates.double() + h.double() @ dense(weight).t() + bias
    i, f, g, o = total.chunk(4, 1)
    c_expected = f.sigmoid() * c + i.sigmoid() * g.tanh()
    h_expected = o.sigmoid() * c_expected.tanh()
    path = Path("step", "both", 16, 16, True) if kernel == "step" else Path("linear")
    h_new, c_new = functional.lstm_step(gates, h, c, weight, bias, path=path)
    assert distance(h_new, h_expected) < 1e-6
    assert distance(c_new, c_expected) < 1e-6


def test_lstm_over_a_sequence_is_torchs():
    torch.manual_seed(1)
    hidden = 8
    ih = layout.pack_linear_gpu(codes_of(4 * hidden, 6), 0.6, 0.4, device="cpu")
    hh = layout.pack_linear_gpu(codes_of(4 * hidden, hidden), 0.3, 0.5, device="cpu")
    bias = torch.randn(4 * hidden)
    torchs = torch.nn.LSTM(6, hidden).double()
    with torch.no_grad():
        torchs.weight_ih_l0.copy_(dense(ih))
        torchs.weight_hh_l0.copy_(dense(hh))
        torchs.bias_ih_l0.copy_(bias)
        torchs.bias_hh_l0.zero_()
    x = torch.randn(3, 2, 6)
    expected, (h_expected, c_expected) = torchs(x.double())
    y, (h, c) = functional.lstm(x, ih, hh, bias)
    assert distance(y, expected) < 1e-6
    assert distance(h, h_expected[0]) < 1e-6
    assert distance(c, c_expected[0]) < 1e-6


@pytest.mark.parametrize("columns", [1, 130, 1100])
def test_quantizing_rows_is_the_references(columns):
    torch.manual_seed(columns)
    weight = layout.pack_linear_gpu(codes_of(1, columns), 1.0, 1.0, "int8", device="cpu")
    x = torch.randn(3, columns)
    x[1] *= 2.0**-122
    y, scale = launch.quantize_rows(x, weight)
    integers, scales = reference.quantize_rows(x)
    order = layout.interleaved(y.shape[1], weight.group)
    ordered = torch.zeros(3, y.shape[1], dtype=torch.float64)
    ordered[:, order] = y.double()
    assert torch.equal(ordered[:, :columns], integers)
    assert not ordered[:, columns:].any()
    assert torch.equal(scale[:, None], scales)


@pytest.mark.parametrize("activations", ["fp32", "int8"])
def test_the_operators_give_on_packed_bytes_what_the_cpu_gives(activations):
    torch.manual_seed(3)
    int8 = activations == "int8"
    packed = pack_linear(codes_of(20, 70), 0.7, 0.3, activations)
    scales = packed.scale_pos, packed.scale_neg
    x, residual, bias = torch.randn(2, 3, 70), torch.randn(2, 3, 20), torch.randn(20)
    arguments = (x, packed.packed, *scales, bias, residual, 20, int8, True)
    torch.testing.assert_close(operators.linear(*arguments), ops.linear(*arguments))
    packed = pack_conv2d(codes_of(6, 16, 3, 3), 0.7, 0.3, activations)
    x, residual = torch.randn(2, 16, 4, 4), torch.randn(2, 6, 4, 4)
    scales = packed.scale_pos, packed.scale_neg
    geometry = ((6, 16, 3, 3), (1, 1), (1, 1), (1, 1), 1)
    arguments = (x, packed.packed, *scales, None, residual, *geometry, int8, True)
    torch.testing.assert_close(operators.conv2d(*arguments), ops.conv2d(*arguments))


def test_a_packed_lstm_steps_as_on_the_cpu():
    torch.manual_seed(4)
    packed = pack_linear(codes_of(32, 8), 0.7, 0.3)
    gates, h, c, bias = (torch.randn(*s) for s in ((3, 32), (3, 8), (3, 8), (32,)))
    arguments = packed.packed, packed.scale_pos, packed.scale_neg, bias
    steps = operators.packed_lstm_step(gates, h, c, *arguments, False)
    expected = ops.lstm_cell(ops.linear(h, *arguments, gates, 32, False, False), c)
    for step, value in zip(steps, expected, strict=True):
        torch.testing.assert_close(step, value)
