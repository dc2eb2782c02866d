"""Language models see only the past, and continue from a cache as if they had seen it all."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ttq_energy import models

TRANSFORMERS = [
    {"d_model": 32, "n_layers": 2, "n_heads": 4},
    {"d_model": 32, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2},
    {"d_model": 32, "n_layers": 1, "n_heads": 1, "tie_weights": True},
]


def transformer(**options):
    torch.manual_seed(0)
    return models.build("transformer-lm", context=64, sequence_length=32, **options).eval()


def lstm(**options):
    torch.manual_seed(0)
    return models.build("lstm-lm", hidden_size=24, embedding_size=24, **options).eval()


def tokens(batch, length):
    return torch.randint(97, (batch, length), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("model", [transformer(), lstm(), lstm(n_layers=1, tie_weights=True)])
def test_logits_do_not_depend_on_later_tokens(model):
    x = tokens(2, 12)
    other = x.clone()
    other[:, 7:] = (other[:, 7:] + 1) % 97
    with torch.inference_mode():
        before, after = model(x), model(other)
    assert before.shape == (2, 12, 97)
    torch.testing.assert_close(before[:, :7], after[:, :7])
    assert not torch.allclose(before[:, 7:], after[:, 7:])


@settings(max_examples=15, deadline=None)
@given(
    parts=st.lists(st.integers(1, 9), min_size=1, max_size=6),
    options=st.sampled_from(TRANSFORMERS),
)
def test_a_transformer_continues_from_its_cache(parts, options):
    model = transformer(**options)
    x = tokens(2, sum(parts))
    cache = model.new_cache(batch_size=2)
    with torch.inference_mode():
        whole = model(x)
        pieces = [model(part, cache) for part in x.split(parts, dim=1)]
    torch.testing.assert_close(torch.cat(pieces, dim=1), whole, rtol=1e-4, atol=1e-5)
    assert cache.length == sum(parts)


def test_an_lstm_continues_from_its_state():
    model = lstm()
    x = tokens(2, 10)
    cache = model.new_cache()
    with torch.inference_mode():
        whole = model(x)
        pieces = [model(part, cache) for part in x.split([3, 1, 6], dim=1)]
    torch.testing.assert_close(torch.cat(pieces, dim=1), whole, rtol=1e-4, atol=1e-5)


def test_attention_matches_its_definition_in_float64():
    """softmax(q k^T / sqrt(d)) v over the past, with rotated q and k, by plain loops."""
    model = transformer(d_model=16, n_layers=1, n_heads=2, n_kv_heads=1).double()
    attention, rotary = model.model.layers[0].self_attn, model.model.rotary
    x = torch.randn(1, 5, 16, dtype=torch.float64)
    with torch.inference_mode():
        found = attention(x, rotary, None, 0)

    def rotate(v, position):
        half = len(v) // 2
        out = v.clone()
        for i in range(half):
            angle = torch.tensor(position * 10000.0 ** (-2 * i / len(v)), dtype=torch.float64)
            a, b = v[i], v[i + half]
            out[i], out[i + half] = (
                a * angle.cos() - b * angle.sin(),
                b * angle.cos() + a * angle.sin(),
            )
        return out

    query, key, value = (getattr(attention, f"{n}_proj")(x)[0] for n in "qkv")
    rows = []
    for t in range(5):
        heads = []
        for h in range(2):
            q = rotate(query[t, 8 * h : 8 * h + 8], t)
            scores = torch.stack([q @ rotate(key[s], s) / 8**0.5 for s in range(t + 1)])
            heads.append(scores.softmax(0) @ value[: t + 1])
        rows.append(torch.cat(heads))
    expected = attention.o_proj(torch.stack(rows))
    torch.testing.assert_close(found[0], expected, rtol=1e-6, atol=1e-8)


def test_more_tokens_than_fit_are_refused():
    model = transformer()
    with pytest.raises(ValueError, match="64 that fit"):
        model(tokens(1, 65))
    cache = model.new_cache(capacity=8)
    model(tokens(1, 8), cache)
    with pytest.raises(ValueError, match="8 cached"):
        model(tokens(1, 1), cache)


def test_tied_weights_are_one_tensor():
    model = transformer(tie_weights=True)
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_a_preset_gives_way_to_an_option_that_is_given():
    with torch.device("meta"):
        model = models.build("transformer-lm", preset="tinyllama-1.1b", n_layers=2)
    assert len(model.model.layers) == 2
    assert model.lm_head.weight.shape == (32000, 2048)
