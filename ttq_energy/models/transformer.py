"""Decoder-only transformer language model of the Llama family (arXiv 2302.13971).

Pre-normalization with RMSNorm, rotary positions, grouped-query attention and a SwiGLU feed-forward
layer, without biases. Parameters bear the names of published Llama checkpoints, and the rotary
embedding pairs dimension i with i + head_dim / 2 as those do.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from ttq_energy.kernels import decoding, siblings, stacks
from ttq_energy.kernels.watching import unobserved
from ttq_energy.models.options import TransformerOptions


class KVCache:
    """Keys and values of the tokens seen so far; each call of the model appends its own.

    Attributes:
        keys, values: one tensor a layer, (N, n_kv_heads, capacity, head_dim).
        length: tokens held.
    """

    def __init__(
        self,
        n_layers: int,
        batch_size: int,
        n_kv_heads: int,
        capacity: int,
        head_dim: int,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        shape = (batch_size, n_kv_heads, capacity, head_dim)
        self.keys = [decoding.cache_memory(shape, dtype, device) for _ in range(n_layers)]
        self.values = [decoding.cache_memory(shape, dtype, device) for _ in range(n_layers)]
        self.length = 0

    @property
    def capacity(self) -> int:
        return self.keys[0].shape[2]

    def extend(
        self, layer: int, key: torch.Tensor, value: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write (N, n_kv_heads, T, head_dim) behind what is held; returns all of both."""
        end = self.length + key.shape[2]
        self.keys[layer][:, :, self.length : end] = key
        self.values[layer][:, :, self.length : end] = value
        return self.keys[layer][:, :, :end], self.values[layer][:, :, :end]


class Rotary(nn.Module):
    """Rotary position embedding (arXiv 2104.09864) of heads (N, heads, T, head_dim)."""

    cos: torch.Tensor
    sin: torch.Tensor

    def __init__(self, head_dim: int, context: int, base: float) -> None:
        super().__init__()
        frequency = base ** (-torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)
        angle = torch.outer(torch.arange(context, dtype=torch.float64), frequency).repeat(1, 2)
        self.register_buffer("cos", angle.cos().float(), persistent=False)
        self.register_buffer("sin", angle.sin().float(), persistent=False)

    def forward(self, x: torch.Tensor, start: int) -> torch.Tensor:
        """Turn the head vectors of positions start, start + 1, ... by their angles."""
        end = start + x.shape[-2]
        first, second = x.chunk(2, dim=-1)
        turned = torch.cat((-second, first), dim=-1)
        cos, sin = self.cos[start:end].to(x.dtype), self.sin[start:end].to(x.dtype)
        return x * cos + turned * sin


class Attention(nn.Module):
    """Causal self-attention; fewer heads of keys and values than of queries where so asked."""

    def __init__(self, d_model: int, n_heads: int, n_kv_heads: int) -> None:
        super().__init__()
        self.n_heads, self.n_kv_heads = n_heads, n_kv_heads
        self.head_dim = d_model // n_heads
        self.q_proj = nn.Linear(d_model, d_model, bias=False)
        self.k_proj = nn.Linear(d_model, n_kv_heads * self.head_dim, bias=False)
        self.v_proj = nn.Linear(d_model, n_kv_heads * self.head_dim, bias=False)
        self.o_proj = nn.Linear(d_model, d_model, bias=False)

    def forward(
        self,
        x: torch.Tensor,
        rotary: Rotary,
        cache: KVCache | None,
        layer: int,
        residual: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """(N, T, d_model) to the same, to which ``residual`` is added."""
        query, key, value = siblings.run((self.q_proj, self.k_proj, self.v_proj), x)
        out = None
        if cache is not None and x.shape[1] == 1 and type(rotary) is Rotary:
            keys, values = cache.keys[layer], cache.values[layer]
            tables = rotary.cos, rotary.sin
            out = decoding.attend(query, key, value, *tables, keys, values, cache.length)
        if out is None:
            out = self._attend(query, key, value, rotary, cache, layer)
        return siblings.plus(self.o_proj, out, residual)

    def _attend(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        rotary: Rotary,
        cache: KVCache | None,
        layer: int,
    ) -> torch.Tensor:
        """Any number of tokens behind those in the cache, by torch's operators."""
        start = 0 if cache is None else cache.length
        query = rotary(self._heads(query, self.n_heads), start)
        key = rotary(self._heads(key, self.n_kv_heads), start)
        value = self._heads(value, self.n_kv_heads)
        if cache is not None:
            key, value = cache.extend(layer, key, value)
        out = functional.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=self._mask(query, start),
            is_causal=start == 0,
            enable_gqa=self.n_kv_heads != self.n_heads,
        )
        return out.transpose(1, 2).flatten(2)

    def _heads(self, x: torch.Tensor, heads: int) -> torch.Tensor:
        """(N, T, heads * head_dim) to (N, heads, T, head_dim)."""
        return x.view(*x.shape[:-1], heads, self.head_dim).transpose(1, 2)

    @staticmethod
    def _mask(query: torch.Tensor, start: int) -> torch.Tensor | None:
        """What each of several tokens behind cached ones may see; None where all, or causal."""
        tokens = query.shape[2]
        if start == 0 or tokens == 1:
            return None
        seen = torch.ones(tokens, start + tokens, dtype=torch.bool, device=query.device)
        return seen.tril(start)


class FeedForward(nn.Module):
    """SwiGLU (arXiv 2002.05202): down(silu(gate(x)) * up(x))."""

    def __init__(self, d_model: int, d_ff: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(d_model, d_ff, bias=False)
        self.up_proj = nn.Linear(d_model, d_ff, bias=False)
        self.down_proj = nn.Linear(d_ff, d_model, bias=False)
        self.act_fn = nn.SiLU()

    def forward(self, x: torch.Tensor, residual: torch.Tensor | None = None) -> torch.Tensor:
        """(N, T, d_model) to the same, to which ``residual`` is added."""
        gate, up = siblings.run((self.gate_proj, self.up_proj), x)
        plain = type(self.act_fn) is nn.SiLU and unobserved(self.act_fn)
        if plain and decoding.applies(gate, up):
            hidden = decoding.swiglu(gate, up)
        else:
            hidden = self.act_fn(gate) * up
        return siblings.plus(self.down_proj, hidden, residual)


class DecoderLayer(nn.Module):
    """Attention and feed-forward layer, each behind a normalization and beside a shortcut."""

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        n_kv_heads: int,
        d_ff: int,
        dropout: float,
        epsilon: float,
    ) -> None:
        super().__init__()
        self.input_layernorm = decoding.RMSNorm(d_model, eps=epsilon)
        self.self_attn = Attention(d_model, n_heads, n_kv_heads)
        self.post_attention_layernorm = decoding.RMSNorm(d_model, eps=epsilon)
        self.mlp = FeedForward(d_model, d_ff)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, x: torch.Tensor, rotary: Rotary, cache: KVCache | None, layer: int
    ) -> torch.Tensor:
        normed = self.input_layernorm(x)
        if self.training and self.dropout.p:
            x = x + self.dropout(self.self_attn(normed, rotary, cache, layer))
            out: torch.Tensor = x + self.dropout(self.mlp(self.post_attention_layernorm(x)))
            return out
        x = self.self_attn(normed, rotary, cache, layer, x)
        out = self.mlp(self.post_attention_layernorm(x), x)
        return out

    def parts(self) -> stacks.DecoderParts | None:
        """The layer's modules, for a step in one native call; None where one is of another kind."""
        attention, feed_forward = self.self_attn, self.mlp
        kinds = type(self), type(attention), type(feed_forward)
        if kinds != (DecoderLayer, Attention, FeedForward):
            return None
        if type(feed_forward.act_fn) is not nn.SiLU:
            return None
        return stacks.DecoderParts(
            (attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj),
            (feed_forward.gate_proj, feed_forward.up_proj, feed_forward.down_proj),
            (self.input_layernorm, self.post_attention_layernorm),
            (self, attention, feed_forward, feed_forward.act_fn, self.dropout),
        )


class Decoder(nn.Module):
    """Embedding, decoder layers and the last normalization."""

    def __init__(
        self,
        vocab: int,
        n_layers: int,
        d_model: int,
        n_heads: int,
        n_kv_heads: int,
        d_ff: int,
        context: int,
        dropout: float,
        rope_base: float,
        epsilon: float,
    ) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(vocab, d_model)
        self.layers = nn.ModuleList(
            DecoderLayer(d_model, n_heads, n_kv_heads, d_ff, dropout, epsilon)
            for _ in range(n_layers)
        )
        self.norm = decoding.RMSNorm(d_model, eps=epsilon)
        self.rotary = Rotary(d_model // n_heads, context, rope_base)
        self._stack = stacks.DecoderStack()

    def forward(self, tokens: torch.Tensor, cache: KVCache | None = None) -> torch.Tensor:
        x = self.embed_tokens(tokens)
        out = self._step(x, cache)
        if out is None:
            for index, layer in enumerate(self.layers):
                x = layer(x, self.rotary, cache, index)
            out = self.norm(x)
        if cache is not None:
            cache.length += tokens.shape[1]
        assert out is not None
        return out

    def _step(self, x: torch.Tensor, cache: KVCache | None) -> torch.Tensor | None:
        """Layers and norm on one token in one native call, where they are packed; else None."""
        if cache is None or x.shape[1] != 1 or self.training:
            return None
        rotary = self.rotary
        if type(rotary) is not Rotary:
            return None
        return self._stack.step(
            self._parts, x, rotary.cos, rotary.sin, cache.keys, cache.values, cache.length
        )

    def _parts(self) -> stacks.StackParts:
        layers = [layer.parts() for layer in self.layers if isinstance(layer, DecoderLayer)]
        return stacks.StackParts(layers, self.norm, (self, self.layers))


class TransformerLanguageModel(nn.Module):
    """Predicts the next token. Input (N, T) int64; output logits (N, T, vocab)."""

    def __init__(
        self,
        vocab: int,
        n_layers: int = 4,
        d_model: int = 128,
        n_heads: int = 4,
        n_kv_heads: int | None = None,
        d_ff: int | None = None,
        context: int = 1024,
        dropout: float = 0.0,
        tie_weights: bool = False,
        rope_base: float = 10000.0,
        rms_epsilon: float = 1e-6,
    ) -> None:
        super().__init__()
        self.context = context
        self.n_kv_heads = n_kv_heads or n_heads
        self.head_dim = d_model // n_heads
        self.model = Decoder(
            vocab,
            n_layers,
            d_model,
            n_heads,
            self.n_kv_heads,
            d_ff or -(-8 * d_model // 3 // 32) * 32,
            context,
            dropout,
            rope_base,
            rms_epsilon,
        )
        self.lm_head = nn.Linear(d_model, vocab, bias=False)
        if tie_weights:
            self.lm_head.weight = self.model.embed_tokens.weight
        self._initialize(n_layers)

    def _initialize(self, n_layers: int) -> None:
        """GPT-2's: normal, 0.02; less by sqrt(2 n_layers) where a branch joins the residual."""
        for name, parameter in self.named_parameters():
            if parameter.ndim > 1:
                joins = name.endswith(("o_proj.weight", "down_proj.weight"))
                nn.init.normal_(parameter, std=0.02 / (2 * n_layers) ** 0.5 if joins else 0.02)

    def forward(self, tokens: torch.Tensor, cache: KVCache | None = None) -> torch.Tensor:
        """Logits of the token after each of ``tokens``.

        Args:
            tokens: (N, T) int64.
            cache: keys and values of earlier tokens, to which those of these are added; None
                starts at position 0 and keeps nothing.

        Raises:
            ValueError: more tokens than the context, or the cache, can hold.
        """
        held, room = 0, self.context
        if cache is not None:
            held, room = cache.length, min(self.context, cache.capacity)
        if held + tokens.shape[1] > room:
            raise ValueError(
                f"{held} cached and {tokens.shape[1]} new tokens are more than the {room} that fit"
            )
        logits: torch.Tensor = self.lm_head(self.model(tokens, cache))
        return logits

    def new_cache(self, batch_size: int = 1, capacity: int | None = None) -> KVCache:
        """An empty cache for ``batch_size`` sequences of up to ``capacity`` tokens (context)."""
        weight = self.model.embed_tokens.weight
        return KVCache(
            len(self.model.layers),
            batch_size,
            self.n_kv_heads,
            capacity or self.context,
            self.head_dim,
            dtype=weight.dtype,
            device=weight.device,
        )


def transformer_lm(options: TransformerOptions) -> TransformerLanguageModel:
    return TransformerLanguageModel(
        options.vocab,
        options.n_layers,
        options.d_model,
        options.n_heads,
        options.n_kv_heads,
        options.d_ff,
        options.context,
        options.dropout,
        options.tie_weights,
        options.rope_base,
        options.rms_epsilon,
    )
