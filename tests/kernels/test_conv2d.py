"""Packed convolutions against float64 and against the plain reference."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ttq_energy.errors import InputError
from ttq_energy.kernels import isa, ops, pack_conv2d, reference, ternary_conv2d


@st.composite
def convolutions(draw):
    """A geometry, an input in some memory format, and codes, at random."""
    torch.manual_seed(draw(st.integers(0, 99)))
    groups = draw(st.sampled_from([1, 1, 1, 2, 3, 19]))
    channels = draw(st.sampled_from([1, 1, 2, 3, 4, 7, 8, 12, 19])) * groups
    out = draw(st.sampled_from([1, 1, 2, 5, 16, 33, 65])) * groups
    kernel = draw(st.tuples(st.integers(1, 4), st.integers(1, 3)))
    dilation = draw(st.tuples(st.integers(1, 2), st.integers(1, 3)))
    stride = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    padding = draw(st.tuples(st.integers(0, 2), st.integers(0, 2)))
    height = dilation[0] * (kernel[0] - 1) + 1 + draw(st.integers(0, 12))
    width = dilation[1] * (kernel[1] - 1) + 1 + draw(st.integers(0, 40))
    x = torch.randn(draw(st.integers(0, 3)), channels, height, width)
    memory = draw(st.sampled_from(["nchw", "channels_last", "strided", "expanded", "slice"]))
    if memory == "channels_last":
        x = x.contiguous(memory_format=torch.channels_last)
    elif memory == "strided":
        x = torch.randn(*x.shape[:2], width, 2 * height)[..., ::2].transpose(2, 3)
    elif memory == "expanded":
        x = x[:1, :1].expand(x.shape) if len(x) else x
    elif memory == "slice":
        x = torch.randn(len(x), height, width, channels + 3).permute(0, 3, 1, 2)[:, 1:-2]
    codes = torch.randint(-1, 2, (out, channels // groups, *kernel), dtype=torch.int8)
    geometry = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    return x, codes, geometry


@settings(max_examples=80, deadline=None)
@given(convolutions(), st.booleans())
def test_fp32_is_within_1e_5_of_float64(case, biased):
    x, codes, geometry = case
    bias = torch.randn(codes.shape[0]) if biased else None
    w = pack_conv2d(codes, 0.3, torch.rand(codes.shape[0]))
    y = ternary_conv2d(x, w, bias, **geometry)
    expected = torch.nn.functional.conv2d(
        x.double(),
        w.effective_weight().double(),
        None if bias is None else bias.double(),
        **geometry,
    )
    assert y.shape == expected.shape
    last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    assert y.is_contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)
    assert (y.double() - expected).norm() <= 1e-5 * expected.norm()


@settings(max_examples=60, deadline=None)
@given(convolutions())
def test_int8_equals_the_reference_bit_for_bit(case):
    x, codes, geometry = case
    w = pack_conv2d(codes, 0.3, 0.7, "int8")
    expected = reference.conv2d(x, codes, w.scale_pos, w.scale_neg, int8=True, **geometry)
    assert torch.equal(ternary_conv2d(x, w, **geometry), expected)


@settings(max_examples=40, deadline=None)
@given(convolutions(), st.sampled_from(["fp32", "int8"]), st.booleans(), st.booleans())
def test_residuals_of_either_memory_format_are_added_before_the_relu(case, activations, last, relu):
    x, codes, geometry = case
    int8 = activations == "int8"
    w, bias = pack_conv2d(codes, 0.3, 0.7, activations), torch.randn(codes.shape[0])
    given = (w.scale_pos, w.scale_neg, bias)
    plain = reference.conv2d(x, codes, *given, int8=int8, **geometry)
    form = torch.channels_last if last else torch.contiguous_format
    residual = torch.randn(plain.shape).contiguous(memory_format=form)
    y = ops.conv2d(x, w.packed, *given, residual, w.shape, *geometry.values(), int8, relu)
    kind = {"int8": int8, "relu": relu, **geometry}
    if int8:
        assert torch.equal(y, reference.conv2d(x, codes, *given, residual, **kind))
    else:
        wide = (t.double() for t in given)
        expected = reference.conv2d(x.double(), codes, *wide, residual.double(), **kind)
        assert (y.double() - expected).norm() <= 1e-5 * max(expected.norm(), plain.norm())


@settings(max_examples=30, deadline=None)
@given(
    channels=st.integers(1, 17).map(lambda quads: 4 * quads),
    out=st.sampled_from([16, 24, 48, 64]),
    size=st.tuples(st.integers(5, 9), st.integers(6, 150)),
    kernel=st.sampled_from([(3, 3), (5, 5), (1, 3), (2, 9)]),
    stride=st.sampled_from([(1, 1), (2, 2), (1, 3)]),
    dilation=st.sampled_from([(1, 1), (2, 3)]),
    last=st.booleans(),
)
def test_many_outputs_in_int8_equal_the_reference(
    channels, out, size, kernel, stride, dilation, last
):
    torch.manual_seed(channels)
    codes = torch.randint(-1, 2, (out, channels, *kernel), dtype=torch.int8)
    x = torch.randn(2, channels, *size)
    if last:
        x = x.contiguous(memory_format=torch.channels_last)
    geometry = {"stride": stride, "padding": (4, 4), "dilation": dilation, "groups": 1}
    if size[1] + 8 <= dilation[1] * (kernel[1] - 1):
        return
    w = pack_conv2d(codes, 0.3, 0.7, "int8")
    expected = reference.conv2d(x, codes, w.scale_pos, w.scale_neg, int8=True, **geometry)
    assert torch.equal(ternary_conv2d(x, w, **geometry), expected)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(
    ("channels", "kernel", "groups"),
    [(20000, 1, 1), (131072, 1, 1), (4096, 3, 1), (64, 16, 64), (64, 17, 64)],
)
def test_long_sums_of_one_value_neither_drift_nor_overflow(sign, channels, kernel, groups):
    codes = torch.full((16 if groups == 1 else channels, channels // groups, kernel, kernel), sign)
    x = torch.full((1, channels, kernel + 1, kernel + 2), 0.1)
    exact = 0.1 * codes[0].numel() * sign
    for activations in ("fp32", "int8"):
        w = pack_conv2d(codes.to(torch.int8), 0.7, 0.7, activations)
        y = ternary_conv2d(x, w, groups=groups)
        assert (y.double() / (0.7 * exact) - 1).abs().max() <= 1e-5


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "padding"),
    [
        ((2, 2), 3, 1, 1),
        ((9, 5), 3, 2, 1),
        ((4, 7), 5, 3, 2),
        ((16, 16), 3, 1, 1),
        ((3, 3), 1, 2, 2),
    ],
)
def test_images_of_a_batch_do_not_touch_each_other(size, kernel, stride, padding):
    # More images than one line holds, of very different magnitudes, one of zeros, later one of NaN.
    torch.manual_seed(3)
    codes = torch.randint(-1, 2, (20, 12, kernel, kernel), dtype=torch.int8)
    x = torch.randn(300, 12, *size) * 10.0 ** torch.randint(-6, 7, (300, 1, 1, 1))
    x[17] = 0
    for activations in ("fp32", "int8"):
        w = pack_conv2d(codes, 0.3, 0.7, activations)
        whole = ternary_conv2d(x, w, stride=stride, padding=padding)
        for i in (0, 16, 17, 18, 150, 299):
            alone = reference.conv2d(
                x[i : i + 1] if activations == "int8" else x[i : i + 1].double(),
                codes,
                w.scale_pos,
                w.scale_neg,
                int8=activations == "int8",
                stride=(stride, stride),
                padding=(padding, padding),
            )
            if activations == "int8":
                assert torch.equal(whole[i : i + 1], alone)
            else:
                assert (whole[i : i + 1].double() - alone).norm() <= 1e-5 * alone.norm()
    x[18, 3, 1, 1] = float("nan")
    y = ternary_conv2d(x, pack_conv2d(codes, 0.3, 0.7, "int8"), stride=stride, padding=padding)
    assert y[18].isnan().all()
    assert y[[17, 19]].isfinite().all()


@pytest.mark.parametrize("name", ["avx2", "portable"])
def test_every_instruction_set_here_agrees(name):
    if name not in isa.available():
        pytest.skip(f"this CPU or build lacks {name}")
    torch.manual_seed(0)
    before = isa.active()
    isa.native().use(name)
    try:
        for out, channels, groups in ((40, 16, 1), (40, 7, 2), (34, 1, 34)):
            codes = torch.randint(-1, 2, (out, channels, 3, 3), dtype=torch.int8)
            w, x = pack_conv2d(codes, 0.3, 0.2, "int8"), torch.randn(2, channels * groups, 19, 23)
            expected = reference.conv2d(
                x, codes, w.scale_pos, w.scale_neg, int8=True, groups=groups
            )
            assert torch.equal(ternary_conv2d(x, w, groups=groups), expected)
    finally:
        isa.native().use(before)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_non_finite_activations_propagate_as_in_the_reference(value):
    torch.manual_seed(1)
    codes, x = torch.randint(-1, 2, (6, 4, 3, 3), dtype=torch.int8), torch.randn(2, 4, 9, 9)
    x[1, 2, 4, 4] = value
    for activations in ("fp32", "int8"):
        w = pack_conv2d(codes, 0.3, 0.2, activations)
        expected = reference.conv2d(
            x, codes, w.scale_pos, w.scale_neg, int8=activations == "int8", padding=(1, 1)
        )
        y = ternary_conv2d(x, w, padding=1)
        torch.testing.assert_close(y, expected, equal_nan=True)


def test_several_threads_give_the_same_bits():
    torch.manual_seed(2)
    codes = torch.randint(-1, 2, (48, 32, 3, 3), dtype=torch.int8)
    x, before = torch.randn(3, 32, 20, 20), torch.get_num_threads()
    for activations in ("fp32", "int8"):
        w, results = pack_conv2d(codes, 0.3, 0.2, activations), []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(ternary_conv2d(x, w, padding=1))
        torch.set_num_threads(before)
        assert torch.equal(results[0], results[1])
        assert torch.equal(results[0], results[2])


def test_weights_take_two_bits_each():
    for shape in ((64, 64, 3, 3), (64, 3, 7, 7), (128, 6, 5, 5)):
        codes = torch.randint(-1, 2, shape, dtype=torch.int8)
        w = pack_conv2d(codes, 0.3, 0.2)
        assert torch.equal(w.codes(), codes)
        assert w.weight_bytes * 8 <= 2.1 * codes.numel()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"groups": 3}, "groups"),
        ({"stride": 0}, "stride"),
        ({"padding": -1}, "padding"),
        ({"dilation": (1, 2, 3)}, "dilation"),
        ({"dilation": 9}, "smaller than the dilated kernel"),
    ],
)
def test_bad_geometry_gets_one_clear_line(options, message):
    w = pack_conv2d(torch.ones(4, 2, 3, 3, dtype=torch.int8), 1.0, 1.0)
    with pytest.raises(InputError) as caught:
        ternary_conv2d(torch.zeros(1, 2, 8, 8), w, **options)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
