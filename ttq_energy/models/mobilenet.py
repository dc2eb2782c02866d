"""MobileNetV2: Sandler, Howard, Zhu, Zhmoginov, Chen (arXiv 1801.04381)."""

from __future__ import annotations

import torch
from torch import nn

from ttq_energy.models.options import MobileNetV2Options

STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
"""Expansion, channels, blocks and first stride: table 2 of the paper."""


def _conv_bn(
    in_channels: int, out_channels: int, kernel: int, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(
            in_channels,
            out_channels,
            kernel,
            stride,
            (kernel - 1) // 2,
            groups=groups,
            bias=False,
        ),
        nn.BatchNorm2d(out_channels),
        nn.ReLU6(),
    )


class InvertedResidual(nn.Module):
    """Expand by a 1x1, filter depthwise by a 3x3, project by a 1x1 convolution."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = in_channels * expansion
        layers: list[nn.Module] = [_conv_bn(in_channels, hidden, 1)] if expansion != 1 else []
        self.conv = nn.Sequential(
            *layers,
            _conv_bn(hidden, hidden, 3, stride, groups=hidden),
            nn.Conv2d(hidden, out_channels, 1, bias=False),
            nn.BatchNorm2d(out_channels),
        )
        self.residual = stride == 1 and in_channels == out_channels

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        branch: torch.Tensor = self.conv(x)
        return branch + x if self.residual else branch


class MobileNetV2(nn.Module):
    """Input (N, in_channels, H, W); output (N, num_classes). Names are torchvision's."""

    def __init__(
        self,
        in_channels: int = 3,
        num_classes: int = 1000,
        width: float = 1.0,
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        channels = _multiple_of_8(32 * width)
        layers: list[nn.Module] = [_conv_bn(in_channels, channels, 3, 2)]
        for expansion, base, blocks, first_stride in STAGES:
            out_channels = _multiple_of_8(base * width)
            for index in range(blocks):
                stride = first_stride if index == 0 else 1
                layers.append(InvertedResidual(channels, out_channels, stride, expansion))
                channels = out_channels
        last = _multiple_of_8(1280 * max(1.0, width))
        layers.append(_conv_bn(channels, last, 1))
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(last, num_classes))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.01)
                nn.init.zeros_(module.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.classifier(self.flatten(self.avgpool(self.features(x))))
        return logits


def _multiple_of_8(channels: float) -> int:
    """The nearest multiple of 8, never more than a tenth below ``channels``."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


def mobilenetv2(options: MobileNetV2Options) -> MobileNetV2:
    return MobileNetV2(options.in_channels, options.num_classes, options.width, options.dropout)
