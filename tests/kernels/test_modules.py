"""Modules on packed weights: state, copies, compilation, fusion, recurrence."""

import copy
import pickle
import threading

import pytest
import torch
from torch import nn

from ttq_energy.errors import InputError
from ttq_energy.kernels import describe, fusion, isa
from ttq_energy.kernels.modules import (
    TernaryConv1d,
    TernaryConv2d,
    TernaryGRU,
    TernaryLinear,
    TernaryLSTM,
)


def random_codes(*shape: int) -> torch.Tensor:
    return torch.randint(-1, 2, shape, dtype=torch.int8)


def modules():
    torch.manual_seed(0)
    return [
        (TernaryLinear(random_codes(9, 13), 0.3, 0.2, torch.randn(9)), torch.randn(4, 13)),
        (
            TernaryConv2d(random_codes(6, 2, 3, 3), torch.rand(6), 0.2, padding=1, groups=2),
            torch.randn(2, 4, 7, 8),
        ),
        (
            TernaryConv1d(random_codes(5, 4, 3), 0.3, 0.2, stride=2, padding=1, activations="int8"),
            torch.randn(2, 4, 11),
        ),
    ]


@pytest.mark.parametrize("index", range(3))
def test_state_copies_and_pickles_keep_every_bit(index):
    module, x = modules()[index]
    expected = module(x)
    other = copy.deepcopy(module)
    other.packed.zero_()
    other.load_state_dict(module.state_dict())
    for twin in (copy.deepcopy(module), pickle.loads(pickle.dumps(module)), other):
        assert torch.equal(twin(x), expected)


def test_the_effective_weight_is_the_scales_bit_for_bit():
    for module, _ in modules():
        codes = module.codes()
        scale = (-1, *(1,) * (codes.dim() - 1))
        pos = module.w_pos.reshape(scale) if module.w_pos.dim() else module.w_pos
        expected = torch.where(codes > 0, pos, torch.where(codes < 0, -module.w_neg, 0.0))
        assert torch.equal(module.effective_weight(), expected)
        assert module.effective_weight().dtype == torch.float32
        assert torch.equal(module.nonzeros_per_output, codes.flatten(1).ne(0).sum(1))


def test_conv1d_is_torchs_with_the_effective_weight():
    torch.manual_seed(1)
    module = TernaryConv1d(random_codes(6, 3, 5), 0.3, 0.2, torch.randn(6), 2, 3, 2)
    for x in (torch.randn(2, 3, 30), torch.randn(3, 30)):
        expected = nn.functional.conv1d(x, module.effective_weight(), module.bias, 2, 3, 2)
        torch.testing.assert_close(module(x), expected)


@pytest.mark.parametrize("index", range(3))
def test_compile_and_export_take_the_operator_whole(index):
    module, x = modules()[index]
    compiled = torch.compile(module, backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(x), module(x))
    exported = torch.export.export(module, (x,))
    assert "ttq_energy" in str(exported.graph)
    assert torch.equal(exported.module()(x), module(x))


def test_the_operators_pass_torchs_own_checks():
    module, x = modules()[0]
    arguments = (x, module.packed, module.scale_pos, module.scale_neg, module.bias, None, 9)
    torch.library.opcheck(
        torch.ops.ttq_energy.linear.default,
        (*arguments, False, True),
        test_utils=("test_schema", "test_faketensor"),
    )


def test_many_threads_at_once_give_the_same_bits():
    torch.manual_seed(2)
    module, x = TernaryLinear(random_codes(300, 200), 0.3, 0.2), torch.randn(16, 200)
    expected, wrong = module(x), []

    def work():
        wrong.extend(True for _ in range(30) if not torch.equal(module(x), expected))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


class Block(nn.Module):
    """A residual block as in ResNets."""

    def __init__(self, channels: int, activations: str) -> None:
        super().__init__()
        self.first = TernaryConv2d(
            random_codes(channels, channels, 3, 3), 0.1, 0.07, padding=1, activations=activations
        )
        self.second = copy.deepcopy(self.first)
        self.norm1, self.norm2 = nn.BatchNorm2d(channels), nn.BatchNorm2d(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.norm1(self.first(x)))
        return torch.relu(self.norm2(self.second(y)) + x)


def network(activations: str = "fp32") -> nn.Module:
    torch.manual_seed(3)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        Block(8, activations),
        Block(8, activations),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 10),
    )
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    return model.eval()


def test_fusion_keeps_the_result_and_removes_the_norms():
    model, x = network(), torch.randn(2, 3, 12, 12)
    fused = fusion.fuse(model, x)
    torch.testing.assert_close(fused(x), model(x), rtol=1e-4, atol=1e-5)
    kinds = {type(module) for module in fused.modules()}
    assert nn.BatchNorm2d not in kinds
    ternary = [m for m in fused.modules() if isinstance(m, TernaryConv2d)]
    assert len(ternary) == 4
    assert all(module.relu for module in ternary)
    assert "add" not in fused.code
    assert "ttq-energy fp32 packed" in describe(fused)
    assert any(isinstance(m, nn.BatchNorm2d) for m in model.modules())


def test_a_fused_network_keeps_its_state():
    model, x = network(), torch.randn(2, 3, 12, 12)
    fused = fusion.fuse(model, x)
    other = fusion.fuse(model, x)
    for buffer in other.buffers():
        buffer.zero_()
    other.load_state_dict(fused.state_dict())
    assert torch.equal(other(x), fused(x))


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = TernaryLinear(random_codes(4, 4), 1.0, 1.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x) if x.sum() > 0 else x


def test_what_cannot_be_traced_stays_as_it_is():
    model, x = Branching(), torch.ones(2, 4)
    fused = fusion.fuse(model, x)
    assert type(fused) is Branching
    assert fused is not model
    assert torch.equal(fused(x), model(x))


@pytest.mark.parametrize("pair", [(nn.LSTM, TernaryLSTM), (nn.GRU, TernaryGRU)])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_layers": 2, "bidirectional": True, "batch_first": True},
        {"num_layers": 2, "bias": False},
    ],
)
def test_recurrent_layers_are_torchs_with_the_effective_weights(pair, options):
    torch.manual_seed(4)
    dense_type, ternary_type = pair
    dense, ternary = dense_type(12, 20, **options).eval(), {}
    for name, parameter in dense.named_parameters():
        if name.startswith("weight") and name != "weight_ih_l0":
            codes = random_codes(*parameter.shape)
            ternary[name] = (codes, 0.2, 0.1)
            parameter.data = torch.where(codes > 0, 0.2, torch.where(codes < 0, -0.1, 0.0))
    packed = ternary_type.from_dense(dense, ternary)
    assert set(packed.ternary_weights) == set(ternary)
    weights = dict(dense.named_parameters())
    codes, effective = packed.codes(), packed.effective_weight()
    for name, (given_codes, _, _) in ternary.items():
        assert torch.equal(codes[name], given_codes)
        assert torch.equal(effective[name], weights[name])
    matrices = len(ternary)
    assert packed.kernel == describe(packed) == describe(nn.Sequential(packed))
    assert f"ttq-energy fp32 packed ({isa.active()}) x{matrices}" in packed.kernel
    rows = dense.num_layers * (2 if dense.bidirectional else 1)
    state = torch.randn(rows, 5, 20)
    x = torch.randn(5, 7, 12) if dense.batch_first else torch.randn(7, 5, 12)
    given = (state, torch.randn(rows, 5, 20)) if dense_type is nn.LSTM else state
    with torch.inference_mode():
        for hx in (None, given):
            expected, last = dense(x, hx)
            y, final = packed(x, hx)
            torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(final, last, rtol=1e-4, atol=1e-5)
        unbatched, _ = packed(x[0])
        torch.testing.assert_close(unbatched, dense(x[0])[0], rtol=1e-4, atol=1e-5)


def test_recurrent_layers_name_what_is_wrong():
    dense = nn.LSTM(4, 5)
    with pytest.raises(InputError, match="weight_hh_l0"):
        TernaryLSTM.from_dense(dense, {"weight_hh_l1": (random_codes(20, 5), 1.0, 1.0)})
    with pytest.raises(InputError, match=r"nn\.GRU"):
        TernaryGRU.from_dense(dense, {})
    packed = TernaryLSTM.from_dense(dense, {})
    with pytest.raises(InputError, match="input"):
        packed(torch.zeros(3, 2, 7))
