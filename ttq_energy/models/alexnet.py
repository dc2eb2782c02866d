"""AlexNet in three published forms."""

from __future__ import annotations

import torch
from torch import nn

from ttq_energy.models.options import AlexNetOptions


class AlexNet(nn.Module):
    """Features, pooling to 6 x 6, classifier; parameters bear torchvision's names.

    Input (N, in_channels, H, W), 224 x 224 or 227 x 227 as published; output (N, num_classes).
    """

    def __init__(self, features: nn.Sequential, classifier: nn.Sequential) -> None:
        super().__init__()
        self.features = features
        self.avgpool = nn.AdaptiveAvgPool2d(6)
        self.flatten = nn.Flatten()
        self.classifier = classifier

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.classifier(self.flatten(self.avgpool(self.features(x))))
        return logits


def _one_column(in_channels: int) -> nn.Sequential:
    """Krizhevsky, "One weird trick" (arXiv 1404.5997), as torchvision has it."""
    return nn.Sequential(
        nn.Conv2d(in_channels, 64, 11, stride=4, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(3, 2),
        nn.Conv2d(64, 192, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(3, 2),
        nn.Conv2d(192, 384, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(384, 256, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(256, 256, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(3, 2),
    )


def _normalization() -> nn.LocalResponseNorm:
    """k = 2, n = 5, alpha = 1e-4, beta = 0.75; torch divides alpha by n, the paper does not."""
    return nn.LocalResponseNorm(5, alpha=5 * 1e-4, beta=0.75, k=2.0)


def _original(in_channels: int) -> nn.Sequential:
    """Krizhevsky, Sutskever, Hinton (NeurIPS 2012): two columns as groups."""
    return nn.Sequential(
        nn.Conv2d(in_channels, 96, 11, stride=4),
        nn.ReLU(),
        _normalization(),
        nn.MaxPool2d(3, 2),
        nn.Conv2d(96, 256, 5, padding=2, groups=2),
        nn.ReLU(),
        _normalization(),
        nn.MaxPool2d(3, 2),
        nn.Conv2d(256, 384, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(384, 384, 3, padding=1, groups=2),
        nn.ReLU(),
        nn.Conv2d(384, 256, 3, padding=1, groups=2),
        nn.ReLU(),
        nn.MaxPool2d(3, 2),
    )


def _ttq_features(in_channels: int) -> nn.Sequential:
    """The network in TTQ's released code (czhu95/ternarynet), which is that of DoReFa-Net.

    Its pooling pads as TensorFlow's SAME does: at the end alone for 54 pixels, on both sides for
    27, which ``ceil_mode`` and ``padding`` reproduce.
    """
    return nn.Sequential(
        nn.Conv2d(in_channels, 96, 12, stride=4, bias=False),
        nn.ReLU(),
        nn.Conv2d(96, 256, 5, padding=2, groups=2, bias=False),
        nn.BatchNorm2d(256, eps=1e-4),
        nn.MaxPool2d(3, 2, ceil_mode=True),
        nn.ReLU(),
        nn.Conv2d(256, 384, 3, padding=1, bias=False),
        nn.BatchNorm2d(384, eps=1e-4),
        nn.MaxPool2d(3, 2, padding=1),
        nn.ReLU(),
        nn.Conv2d(384, 384, 3, padding=1, groups=2, bias=False),
        nn.BatchNorm2d(384, eps=1e-4),
        nn.ReLU(),
        nn.Conv2d(384, 256, 3, padding=1, groups=2, bias=False),
        nn.BatchNorm2d(256, eps=1e-4),
        nn.MaxPool2d(3, 2),
        nn.ReLU(),
    )


def _dropout_classifier(num_classes: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(
        nn.Dropout(dropout),
        nn.Linear(256 * 6 * 6, 4096),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(4096, 4096),
        nn.ReLU(),
        nn.Linear(4096, num_classes),
    )


def _ttq_classifier(num_classes: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(256 * 6 * 6, 4096, bias=False),
        nn.BatchNorm1d(4096, eps=1e-4),
        nn.ReLU(),
        nn.Linear(4096, 4096, bias=False),
        nn.BatchNorm1d(4096, eps=1e-4),
        nn.ReLU(),
        nn.Linear(4096, num_classes),
    )


def alexnet(options: AlexNetOptions) -> AlexNet:
    if options.variant == "ttq":
        return AlexNet(_ttq_features(options.in_channels), _ttq_classifier(options.num_classes))
    features = _original if options.variant == "original" else _one_column
    classifier = _dropout_classifier(options.num_classes, options.dropout)
    return AlexNet(features(options.in_channels), classifier)
