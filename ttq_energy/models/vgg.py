"""VGG-16 (Simonyan, Zisserman, arXiv 1409.1556) and the VGG-7 of ternary weight networks."""

from __future__ import annotations

import torch
from torch import nn

from ttq_energy.models.options import VGG7Options, VGG16Options


class VGG(nn.Module):
    """Features, pooling to a fixed size, classifier; parameters bear torchvision's names.

    Input (N, in_channels, H, W); output (N, num_classes).
    """

    def __init__(
        self, features: nn.Sequential, pooled_size: int, classifier: nn.Sequential
    ) -> None:
        super().__init__()
        self.features = features
        self.avgpool = nn.AdaptiveAvgPool2d(pooled_size)
        self.flatten = nn.Flatten()
        self.classifier = classifier
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.classifier(self.flatten(self.avgpool(self.features(x))))
        return logits


def _features(
    in_channels: int, stages: list[tuple[int, int]], *, batch_norm: bool, bias: bool
) -> nn.Sequential:
    """Stages of (convolutions, channels), each followed by pooling."""
    layers: list[nn.Module] = []
    for convolutions, channels in stages:
        for _ in range(convolutions):
            layers.append(nn.Conv2d(in_channels, channels, 3, padding=1, bias=bias))
            if batch_norm:
                layers.append(nn.BatchNorm2d(channels))
            layers.append(nn.ReLU())
            in_channels = channels
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers)


def vgg16(options: VGG16Options) -> VGG:
    """Configuration D."""
    stages = [(2, 64), (2, 128), (3, 256), (3, 512), (3, 512)]
    return VGG(
        _features(options.in_channels, stages, batch_norm=options.batch_norm, bias=True),
        7,
        nn.Sequential(
            nn.Linear(512 * 7 * 7, 4096),
            nn.ReLU(),
            nn.Dropout(options.dropout),
            nn.Linear(4096, 4096),
            nn.ReLU(),
            nn.Dropout(options.dropout),
            nn.Linear(4096, options.num_classes),
        ),
    )


def vgg7(options: VGG7Options) -> VGG:
    """2x128C3, MP2, 2x256C3, MP2, 2x512C3, MP2, 1024FC, softmax, with batch normalization.

    Source: Li, Zhang, Liu, "Ternary Weight Networks" (arXiv 1605.04711), section 3.
    """
    stages = [(2, 128), (2, 256), (2, 512)]
    side = options.image_size // 8
    return VGG(
        _features(options.in_channels, stages, batch_norm=True, bias=False),
        side,
        nn.Sequential(
            nn.Linear(512 * side * side, 1024, bias=False),
            nn.BatchNorm1d(1024),
            nn.ReLU(),
            nn.Linear(1024, options.num_classes),
        ),
    )
