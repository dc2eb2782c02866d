"""``nn.MultiheadAttention`` on packed projections."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ttq_energy.kernels import siblings


class TernaryMultiheadAttention(nn.Module):
    """Multi-head attention whose projections are modules, packed or dense; called as torch's is.

    Attributes:
        in_proj: projects one input to query, key and value side by side; None where each input
            has a projection of its own.
        q_proj, k_proj, v_proj: those projections; None where ``in_proj`` stands.
        out_proj: joins the heads.
    """

    in_proj: nn.Module | None
    q_proj: nn.Module | None
    k_proj: nn.Module | None
    v_proj: nn.Module | None
    out_proj: nn.Module
    bias_k: Tensor | None
    bias_v: Tensor | None

    # What nn.TransformerEncoder looks at before it takes a path that needs dense weights.
    in_proj_bias = None
    _qkv_same_embed_dim = False

    def __init__(self, dense: nn.MultiheadAttention, projections: dict[str, nn.Module]) -> None:
        """Take sizes from ``dense`` and the projections by name.

        Args:
            dense: the module to stand in for; its key and value biases are copied.
            projections: ``out_proj``, and either ``in_proj`` or ``q_proj``, ``k_proj``, ``v_proj``.
        """
        super().__init__()
        self.embed_dim, self.num_heads = dense.embed_dim, dense.num_heads
        self.head_dim, self.batch_first = dense.head_dim, dense.batch_first
        self.add_zero_attn = dense.add_zero_attn
        for name in ("in_proj", "q_proj", "k_proj", "v_proj", "out_proj"):
            self.register_module(name, projections.get(name))
        for name in ("bias_k", "bias_v"):
            value = getattr(dense, name)
            self.register_buffer(name, None if value is None else value.detach().clone())

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """As ``nn.MultiheadAttention.forward``; ``is_causal`` is a hint beside ``attn_mask``."""
        if query.dim() == 2:
            inputs = (t.unsqueeze(0) for t in (query, key, value))
            padding = None if key_padding_mask is None else key_padding_mask.unsqueeze(0)
        elif self.batch_first:
            inputs, padding = (t for t in (query, key, value)), key_padding_mask
        else:
            inputs = (t.transpose(0, 1) for t in (query, key, value))
            padding = key_padding_mask
        q, k, v = self._project(query is key and key is value, *inputs)
        k, v, added = self._lengthen(k, v)
        q, k, v = (self._heads(t) for t in (q, k, v))
        mask = self._mask(attn_mask, padding, q, added)
        if need_weights:
            scores = q @ k.transpose(-2, -1) * self.head_dim**-0.5
            weights = torch.softmax(scores if mask is None else scores + mask, dim=-1)
            heads = weights @ v
        else:
            weights = None
            heads = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        out: Tensor = self.out_proj(heads.transpose(1, 2).flatten(2))
        if weights is not None and average_attn_weights:
            weights = weights.mean(1)
        if query.dim() == 2:
            return out.squeeze(0), None if weights is None else weights.squeeze(0)
        return (out if self.batch_first else out.transpose(0, 1)), weights

    def _project(self, same: bool, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, ...]:
        if self.in_proj is None:
            projections = self.q_proj, self.k_proj, self.v_proj
            if same:
                return tuple(siblings.run(projections, q))  # type: ignore[arg-type]
            pairs = zip(projections, (q, k, v), strict=True)
            return tuple(projection(x) for projection, x in pairs)  # type: ignore[misc]
        if same:
            return tuple(self.in_proj(q).chunk(3, dim=-1))
        return tuple(self.in_proj(x).chunk(3, dim=-1)[index] for index, x in enumerate((q, k, v)))

    def _heads(self, t: Tensor) -> Tensor:
        """(N, length, heads x head_dim) to (N, heads, length, head_dim)."""
        # The width is given: torch cannot infer it for an empty batch.
        width = t.shape[-1] // self.num_heads
        return t.reshape(*t.shape[:2], self.num_heads, width).transpose(1, 2)

    def _lengthen(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, int]:
        """Append the learned and the zero key and value, where there are any."""
        added = 0
        if self.bias_k is not None and self.bias_v is not None:
            k = torch.cat((k, self.bias_k.expand(k.shape[0], 1, -1)), 1)
            v = torch.cat((v, self.bias_v.expand(v.shape[0], 1, -1)), 1)
            added += 1
        if self.add_zero_attn:
            k, v = F.pad(k, (0, 0, 0, 1)), F.pad(v, (0, 0, 0, 1))
            added += 1
        return k, v, added

    def _mask(
        self, attn_mask: Tensor | None, padding: Tensor | None, q: Tensor, added: int
    ) -> Tensor | None:
        """Both masks as one to add to the scores, (N, heads or 1, L or 1, S)."""
        total: Tensor | None = None
        for mask, is_padding in ((attn_mask, False), (padding, True)):
            if mask is None:
                continue
            if mask.dtype == torch.bool:
                mask = torch.zeros_like(mask, dtype=q.dtype).masked_fill_(mask, float("-inf"))
            mask = F.pad(mask, (0, added))
            if is_padding:
                mask = mask[:, None, None, :]
            elif mask.dim() == 3:
                mask = mask.reshape(
                    -(-len(mask) // self.num_heads), self.num_heads, *mask.shape[1:]
                )
            total = mask if total is None else total + mask
        return total

    def extra_repr(self) -> str:
        """Sizes."""
        return f"{self.embed_dim}, num_heads={self.num_heads}, batch_first={self.batch_first}"
