"""The same operators on a real GPU; skipped, saying so, where there is none."""

import pytest
import torch
from torch import nn

from ttq_energy.kernels import gpu, pack_conv2d, pack_linear, reference
from ttq_energy.kernels.gpu.paths import Path, Problem, candidates
from ttq_energy.kernels.modules import TernaryLinear

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA GPU"),
    pytest.mark.skipif(not gpu.usable(), reason="triton is not installed"),
]
# Tensor cores cut their float32 sums off where others round: an error of 2^-24 at each of the
# hundreds of steps, all to the same side (Fasi et al., PeerJ Computer Science 7:e330, 2021).
SUMS = 2e-5
TOLERANCE = {torch.float32: SUMS, torch.bfloat16: 8e-3, torch.float16: 2e-3}


def codes_of(*shape):
    torch.manual_seed(sum(shape))
    return torch.randint(-1, 2, shape, dtype=torch.int8)


def distance(y, expected):
    return float((y.double().cpu() - expected).norm() / expected.norm())


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("batch", [1, 7, 16, 40, 300])
@pytest.mark.parametrize("scales", [(0.7, 0.3), (0.5, 0.5)])
def test_every_path_of_a_linear_layer(dtype, batch, scales):
    packed = pack_linear(codes_of(200, 1100), *scales)
    weight = gpu.repack(packed, "cuda")
    x = torch.randn(batch, 1100).to(dtype)
    expected = x.double() @ packed.effective_weight().double().t()
    name = str(dtype).removeprefix("torch.")
    shape = (batch, 200, 1100, weight.group, weight.chunks, weight.symmetric)
    for path in candidates(Problem("linear", name, False, *shape), 132):
        y = gpu.linear(x.cuda(), weight, path=path)
        assert distance(y, expected) < TOLERANCE[dtype], path


@pytest.mark.parametrize("batch", [1, 16, 300])
def test_int8_is_the_reference_bit_for_bit(batch):
    packed = pack_linear(codes_of(200, 1100), 0.7, 0.3, "int8")
    x = torch.randn(batch, 1100)
    y = gpu.linear(x.cuda(), gpu.repack(packed, "cuda")).cpu()
    scales = packed.scale_pos, packed.scale_neg
    assert torch.equal(y, reference.linear(x, packed.codes(), *scales, int8=True))


@pytest.mark.parametrize("activations", ["fp32", "int8"])
def test_conv2d(activations):
    packed = pack_conv2d(codes_of(64, 64, 3, 3), 0.7, 0.3, activations)
    x = torch.randn(2, 64, 14, 14)
    y = gpu.conv2d(x.cuda(), gpu.repack(packed, "cuda"), padding=(1, 1))
    source = x if activations == "int8" else x.double()
    scales = packed.scale_pos, packed.scale_neg
    expected = reference.conv2d(
        source, packed.codes(), *scales, padding=(1, 1), int8=activations == "int8"
    )
    assert distance(y, expected.double()) < (1e-6 if activations == "int8" else SUMS)


@pytest.mark.parametrize("groups", [1, 4, 64])
@pytest.mark.parametrize("stride", [1, 2])
def test_every_path_of_a_convolution(groups, stride):
    packed = pack_conv2d(codes_of(64, 64 // groups, 3, 3), 0.7, 0.3)
    weight = gpu.repack(packed, "cuda")
    x = torch.randn(3, 64, 15, 13).half()
    geometry = {"stride": (stride, stride), "padding": (1, 1), "groups": groups}
    scales = packed.scale_pos, packed.scale_neg
    expected = reference.conv2d(x.double(), packed.codes(), *scales, **geometry)
    shape = (3 * 15 * 13, 64 // groups, weight.columns, weight.group, weight.chunks, False, groups)
    for path in candidates(Problem("conv2d", "float16", False, *shape), 132):
        y = gpu.conv2d(x.cuda(), weight, **geometry, path=path)
        assert distance(y, expected) < TOLERANCE[torch.float16], path


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("batch", [1, 20, 70])
def test_every_path_of_an_lstm_step(dtype, batch):
    hidden = 150
    packed = pack_linear(codes_of(4 * hidden, hidden), 0.7, 0.2)
    weight = gpu.repack(packed, "cuda")
    gates, h, c = (torch.randn(batch, n).to(dtype) for n in (4 * hidden, hidden, hidden))
    total = gates.double() + h.double() @ packed.effective_weight().double().t()
    i, f, g, o = total.chunk(4, 1)
    c_expected = f.sigmoid() * c.double() + i.sigmoid() * g.tanh()
    h_expected = o.sigmoid() * c_expected.tanh()
    name = str(dtype).removeprefix("torch.")
    shape = (batch, 4 * hidden, hidden, weight.group, weight.chunks, False)
    for path in candidates(Problem("lstm_step", name, False, *shape), 132):
        y, c_new = gpu.lstm_step(gates.cuda(), h.cuda(), c.cuda(), weight, path=path)
        assert distance(y, h_expected) < 2 * TOLERANCE[dtype], path
        assert distance(c_new, c_expected) < 2 * TOLERANCE[dtype], path


def test_split_sums_are_the_same_each_time():
    packed = pack_linear(codes_of(64, 4096), 0.7, 0.3)
    weight = gpu.repack(packed, "cuda")
    x = torch.randn(3, 4096, device="cuda", dtype=torch.bfloat16)
    path = Path("tile", "both", 64, 16, True, 8, 4, 3)
    first = gpu.linear(x, weight, path=path)
    assert all(torch.equal(gpu.linear(x, weight, path=path), first) for _ in range(50))


def test_offsets_go_beyond_32_bits():
    """An output of more than 2^31 numbers (4.3 GB in bfloat16)."""
    rows, batch = 4096, (1 << 31) // 4096 + 40
    packed = pack_linear(codes_of(rows, 16), 0.7, 0.3)
    x = torch.zeros(batch, 16, dtype=torch.bfloat16)
    x[-3:] = torch.randn(3, 16)
    y = gpu.linear(x.cuda(), gpu.repack(packed, "cuda"))
    expected = x[-3:].double() @ packed.effective_weight().double().t()
    assert distance(y[-3:], expected) < TOLERANCE[torch.bfloat16]
    assert not y[:-3].any()


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_a_gpu_that_is_not_the_current_one():
    packed = pack_linear(codes_of(200, 1100), 0.7, 0.3)
    x = torch.randn(3, 1100)
    y = gpu.linear(x.to("cuda:1"), gpu.repack(packed, "cuda:1"))
    expected = x.double() @ packed.effective_weight().double().t()
    assert y.device.index == 1
    assert distance(y, expected) < SUMS


def test_a_graph_replays_the_forward_on_new_inputs():
    layer = TernaryLinear(codes_of(256, 512), 0.7, 0.3).cuda().eval()
    network = nn.Sequential(layer, nn.ReLU())
    example = torch.randn(4, 512, device="cuda")
    graph = gpu.graphed(network, example)
    for _ in range(3):
        x = torch.randn(4, 512, device="cuda")
        torch.testing.assert_close(graph(x), network(x), rtol=1e-5, atol=1e-4)
    layer.packed.zero_()  # every code is 0
    y = graph(torch.randn(6, 512, device="cuda"))
    assert y.shape == (6, 256)
    assert torch.equal(y, torch.zeros_like(y))


@pytest.mark.parametrize("precision", gpu.BASELINES)
def test_baselines_compute_the_network(precision):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 64)).cuda().eval()
    example = torch.randn(32, 256, device="cuda")
    module, name = gpu.baseline(model, example, precision, compiled=False)
    with torch.inference_mode():
        expected = model(example)
        assert (module(example) - expected).norm() < 0.05 * expected.norm()
    assert precision in name
