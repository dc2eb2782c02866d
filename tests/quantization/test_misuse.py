"""What Python users get wrong is told in one line; an empty batch is no misuse."""

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
