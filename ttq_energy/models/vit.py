"""Vision transformers (arXiv 2010.11929); the S/16 is that of DeiT (arXiv 2012.12877).

Parameters bear timm's names, so that its checkpoints load.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from ttq_energy.models.options import ViTOptions

PATCH = 16


class PatchEmbedding(nn.Module):
    """(N, C, H, W) to (N, patches, width) by a convolution that strides over whole patches."""

    def __init__(self, in_channels: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, width, PATCH, PATCH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        patches: torch.Tensor = self.proj(x)
        return patches.flatten(2).transpose(1, 2)


class Attention(nn.Module):
    """Self-attention with one projection for queries, keys and values."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, tokens, width = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.heads, width // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        out = functional.scaled_dot_product_attention(query, key, value)
        mixed: torch.Tensor = self.proj(out.transpose(1, 2).reshape(batch, tokens, width))
        return mixed


class MLP(nn.Module):
    """Two linear layers with a GELU between them."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.fc2(self.act(self.fc1(x)))
        return out


class Block(nn.Module):
    """Attention and MLP, each behind a normalization and beside a shortcut."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = Attention(width, heads)
        self.drop1 = nn.Dropout(dropout)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = MLP(width, 4 * width)
        self.drop2 = nn.Dropout(dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.drop1(self.attn(self.norm1(x)))
        out: torch.Tensor = x + self.drop2(self.mlp(self.norm2(x)))
        return out


class VisionTransformer(nn.Module):
    """Input (N, in_channels, image_size, image_size); output (N, num_classes)."""

    def __init__(
        self,
        width: int,
        depth: int,
        heads: int,
        image_size: int = 224,
        in_channels: int = 3,
        num_classes: int = 1000,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        patches = (image_size // PATCH) ** 2
        self.patch_embed = PatchEmbedding(in_channels, width)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, patches + 1, width))
        self.blocks = nn.Sequential(*(Block(width, heads, dropout) for _ in range(depth)))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.head = nn.Linear(width, num_classes)
        self._initialize()

    def _initialize(self) -> None:
        nn.init.normal_(self.cls_token, std=1e-6)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patch_embed(x)
        token = self.cls_token.expand(x.shape[0], -1, -1)
        x = torch.cat((token, x), dim=1) + self.pos_embed
        logits: torch.Tensor = self.head(self.norm(self.blocks(x))[:, 0])
        return logits


def vit(options: ViTOptions, width: int, depth: int, heads: int) -> VisionTransformer:
    return VisionTransformer(
        width,
        depth,
        heads,
        options.image_size,
        options.in_channels,
        options.num_classes,
        options.dropout,
    )
