"""What Python users get wrong is told in one line; an empty batch is no misuse."""

import warnings

import pytest
import torch
from torch import nn

import ttq_energy as te
from ttq_energy.errors import InputError


def network():
    return nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 2))


def converted():
    return te.convert(te.prepare_(network(), te.TTQ()))


def converted_recurrence():
    return te.convert(te.prepare_(nn.Sequential(nn.LSTM(4, 4)), te.TTQ(), skip=()))


def lazy():
    return nn.Sequential(nn.LazyLinear(8), nn.Linear(8, 8), nn.Linear(8, 2))


@pytest.mark.parametrize(
    ("misuse", "message"),
    [
        (lambda: te.prepare_(None, te.TTQ()), "prepare_: expected a torch module, got NoneType"),
        (lambda: te.convert(None), "convert: expected a torch module, got NoneType"),
        (lambda: te.prepare_(lazy(), te.TTQ()), "'0.weight' is not initialized yet"),
        (lambda: te.prepare_(converted(), te.TTQ()), "prepare_: this model is already converted"),
        (lambda: te.convert(converted()), r"convert: this model is already converted \(layer '1'"),
        (lambda: te.convert(converted_recurrence()), "convert: this model is already converted"),
        (lambda: te.TTQ(threshold=0.1, sparsity=0.5), "threshold 0.1 and sparsity 0.5: both"),
    ],
)
def test_misuse_is_told_in_one_line(misuse, message):
    with pytest.raises(InputError, match=message) as raised:
        misuse()
    assert "\n" not in str(raised.value)


def test_a_lazy_network_is_quantized_once_it_has_run():
    model = lazy()
    model(torch.randn(2, 4))
    te.prepare_(model, te.TTQ())


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("need_weights", [True, False])
def test_converted_attention_takes_an_empty_batch(batch_first, need_weights):
    attention = nn.MultiheadAttention(8, 2, batch_first=batch_first)
    packed = te.convert(te.prepare_(attention, te.TTQ(), skip=())).eval()
    x = torch.randn(0, 5, 8) if batch_first else torch.randn(5, 0, 8)
    mask = torch.zeros(0, 5, 5)
    for attn_mask in (None, mask):
        y, weights = packed(x, x, x, need_weights=need_weights, attn_mask=attn_mask)
        assert y.shape == x.shape
        assert (weights is not None) == need_weights


def old_weight_norm(model: nn.Module) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.nn.utils.weight_norm(model[1])
    return model


def three() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (old_weight_norm(three()), "layer '1': its 'weight' is no parameter but made by a hook"),
        (three().to(torch.complex64), "layer '1': expected floating-point weights, got torch.com"),
        (
            nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 0), nn.Linear(0, 4)),
            "layer '1': holds no weights",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_weights_that_no_quantizer_fits(model, message):
    before = set(model.state_dict())
    with pytest.raises(InputError) as caught:
        te.prepare_(model, te.TTQ())
    assert message in str(caught.value)
    assert set(model.state_dict()) == before


def test_weights_that_are_not_numbers_are_told_by_layer():
    model = te.prepare_(three(), te.TTQ())
    model[1].parametrizations.weight.original.data[0, 0] = float("nan")
    with pytest.raises(InputError, match="layer '1': its weights or scales are not finite"):
        te.convert(model)
    with pytest.raises(InputError, match="layer '1': on the device 'meta' it has no weights"):
        te.convert(te.prepare_(three().to("meta"), te.TTQ()))


def test_forward_hooks_go_on_after_convert():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    model[1].register_forward_hook(lambda module, inputs, output: output * 3)
    model[1].register_forward_pre_hook(lambda module, inputs: (inputs[0] + 1,))
    te.prepare_(model, te.TTQ()).eval()
    x = torch.randn(2, 4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        wanted = model(x)
        for packed in (te.convert(model), te.convert(model, example_input=x)):
            torch.testing.assert_close(packed(x), wanted)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_network_of_another_precision_keeps_it(dtype):
    model = te.prepare_(three().to(dtype), te.TTQ()).eval()
    x = torch.randn(2, 4, generator=torch.Generator().manual_seed(0)).to(dtype)
    with torch.no_grad():
        packed = te.convert(model)(x)
        assert packed.dtype is dtype
        torch.testing.assert_close(packed, model(x), rtol=0.02, atol=0.02)


def convolutions() -> nn.Sequential:
    layers = [nn.Conv2d(3, 8, 3, padding=1), nn.ReLU()]
    for _ in range(3):
        layers += [nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(8 * 36, 10))


@pytest.mark.parametrize("activations", ["fp32", "int8"])
@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (three, (2, 4)),
        (convolutions, (2, 3, 6, 6)),
        (lambda: nn.Sequential(nn.Linear(4, 4), nn.LSTM(4, 4)), (5, 2, 4)),
    ],
)
def test_results_follow_the_model_and_not_torchs_defaults(make, shape, activations):
    torch.manual_seed(0)
    model = te.prepare_(make(), te.TTQ(), skip=()).eval()
    x = torch.randn(shape)

    def run(packed):
        y = packed(x)
        return y[0] if isinstance(y, tuple) else y

    packed = te.convert(model, activations, example_input=x)
    with torch.no_grad():
        wanted, counted = run(packed), te.count(model, x)
        torch.set_default_dtype(torch.float64)
        try:
            with torch.device("meta"):
                again = run(te.convert(model, activations, example_input=x))
                same = run(packed)
                counted_again = te.count(model, x)
        finally:
            torch.set_default_dtype(torch.float32)
    assert torch.equal(same, wanted)
    assert torch.equal(again, wanted)
    assert counted_again.equals(counted)
