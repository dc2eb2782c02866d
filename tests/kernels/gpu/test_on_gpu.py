"""The same operators on a real GPU; skipped, saying so, where there is none."""

import pytest
import torch
from torch import nn

from ttq_energy.kernels import gpu, pack_conv2d, pack_linear, reference
from ttq_energy.kernels.modules import TernaryLinear

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA GPU"),
    pytest.mark.skipif(not gpu.usable(), reason="triton is not installed"),
]
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 8e-3, torch.float16: 2e-3}


def codes_of(*shape):
    torch.manual_seed(sum(shape))
    return torch.randint(-1, 2, shape, dtype=torch.int8)


def distance(y, expected):
    return float((y.double().cpu() - expected).norm() / expected.norm())


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("batch", [1, 7, 16, 40, 300])
@pytest.mark.parametrize("scales", [(0.7, 0.3), (0.5, 0.5)])
def test_every_path_of_a_linear_layer(dtype, batch, scales):
    from ttq_energy.kernels.gpu.paths import Problem, candidates

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
    assert distance(y, expected.double()) < 2e-6


def test_a_graph_replays_the_forward_on_new_inputs():
    layer = TernaryLinear(codes_of(256, 512), 0.7, 0.3).cuda().eval()
    network = nn.Sequential(layer, nn.ReLU())
    example = torch.randn(4, 512, device="cuda")
    graph = gpu.graphed(network, example)
    for _ in range(3):
        x = torch.randn(4, 512, device="cuda")
        torch.testing.assert_close(graph(x), network(x), rtol=1e-5, atol=1e-4)


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
