"""Residual networks: He, Zhang, Ren, Sun, "Deep Residual Learning" (arXiv 1512.03385).

Every ReLU is a module of its own, and each block ends in ``relu(branch + shortcut)``, so that a
pass over the graph can fuse them. Parameters bear torchvision's names.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from ttq_energy.models.options import CifarResNetOptions, ImageOptions


class ZeroPadShortcut(nn.Module):
    """Option A: every second pixel, with the new channels zero; no parameters."""

    def __init__(self, stride: int, new_channels: int) -> None:
        super().__init__()
        self.stride = stride
        self.before = new_channels // 2
        self.after = new_channels - self.before

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) to (N, C + new, ceil(H / stride), ceil(W / stride))."""
        x = x[:, :, :: self.stride, :: self.stride]
        return functional.pad(x, (0, 0, 0, 0, self.before, self.after))


class AveragePadShortcut(nn.Module):
    """Option A of TTQ's released code: 2x2 averages, with the new channels zero."""

    def __init__(self, new_channels: int) -> None:
        super().__init__()
        self.pool = nn.AvgPool2d(2)
        self.before = new_channels // 2
        self.after = new_channels - self.before

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) to (N, C + new, H // 2, W // 2)."""
        return functional.pad(self.pool(x), (0, 0, 0, 0, self.before, self.after))


def projection(in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
    """Option B: a 1x1 convolution and batch normalization."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 1, stride, bias=False),
        nn.BatchNorm2d(out_channels),
    )


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut."""

    expansion = 1

    def __init__(self, in_channels: int, channels: int, stride: int, downsample: nn.Module) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = downsample
        self.relu2 = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        branch = self.relu1(self.bn1(self.conv1(x)))
        branch = self.bn2(self.conv2(branch))
        out: torch.Tensor = self.relu2(branch + self.downsample(x))
        return out


class PreactivationBlock(nn.Module):
    """Normalization and ReLU before each 3x3 convolution; nothing after the sum.

    The first block of a network has neither before its first convolution.
    """

    def __init__(self, in_channels: int, channels: int, stride: int, *, first: bool) -> None:
        super().__init__()
        self.bn1: nn.Module = nn.Identity() if first else nn.BatchNorm2d(in_channels)
        self.relu1: nn.Module = nn.Identity() if first else nn.ReLU()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu2 = nn.ReLU()
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.downsample = (
            AveragePadShortcut(channels - in_channels) if stride != 1 else nn.Identity()
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        branch = self.conv1(self.relu1(self.bn1(x)))
        branch = self.conv2(self.relu2(self.bn2(branch)))
        out: torch.Tensor = branch + self.downsample(x)
        return out


class Bottleneck(nn.Module):
    """1x1, 3x3 (which strides, as in torchvision) and 1x1 convolutions beside a shortcut."""

    expansion = 4

    def __init__(self, in_channels: int, channels: int, stride: int, downsample: nn.Module) -> None:
        super().__init__()
        out_channels = channels * self.expansion
        self.conv1 = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(channels, channels, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu2 = nn.ReLU()
        self.conv3 = nn.Conv2d(channels, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.downsample = downsample
        self.relu3 = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        branch = self.relu1(self.bn1(self.conv1(x)))
        branch = self.relu2(self.bn2(self.conv2(branch)))
        branch = self.bn3(self.conv3(branch))
        out: torch.Tensor = self.relu3(branch + self.downsample(x))
        return out


def _stage(
    block: type[BasicBlock] | type[Bottleneck],
    in_channels: int,
    channels: int,
    blocks: int,
    stride: int,
    shortcut: str,
) -> nn.Sequential:
    out_channels = channels * block.expansion
    layers: list[nn.Module] = []
    for index in range(blocks):
        step = stride if index == 0 else 1
        downsample: nn.Module = nn.Identity()
        if step != 1 or in_channels != out_channels:
            downsample = (
                ZeroPadShortcut(step, out_channels - in_channels)
                if shortcut == "A"
                else projection(in_channels, out_channels, step)
            )
        layers.append(block(in_channels, channels, step, downsample))
        in_channels = out_channels
    return nn.Sequential(*layers)


def _initialize(model: nn.Module) -> None:
    """He et al.'s initialization (arXiv 1502.01852) of every convolution, by its outputs."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


class CifarResNet(nn.Module):
    """The 6n+2-layer network for 32 x 32 images, section 4.2: 16, 32 and 64 channels.

    Input (N, in_channels, H, W); output (N, num_classes).
    """

    def __init__(
        self, depth: int, in_channels: int = 3, num_classes: int = 10, shortcut: str = "A"
    ) -> None:
        super().__init__()
        blocks = (depth - 2) // 6
        if depth != 6 * blocks + 2:
            raise ValueError(f"depth must be 6n + 2, got {depth}")
        self.conv1 = nn.Conv2d(in_channels, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.relu = nn.ReLU()
        self.layer1 = _stage(BasicBlock, 16, 16, blocks, 1, shortcut)
        self.layer2 = _stage(BasicBlock, 16, 32, blocks, 2, shortcut)
        self.layer3 = _stage(BasicBlock, 32, 64, blocks, 2, shortcut)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(64, num_classes)
        _initialize(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: torch.Tensor = self.fc(self.flatten(self.avgpool(x)))
        return logits


class PreactivationCifarResNet(nn.Module):
    """The CIFAR network with pre-activation blocks (arXiv 1603.05027), as in TTQ's released code.

    Input (N, in_channels, H, W); output (N, num_classes).
    """

    def __init__(self, depth: int, in_channels: int = 3, num_classes: int = 10) -> None:
        super().__init__()
        blocks = (depth - 2) // 6
        self.conv1 = nn.Conv2d(in_channels, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.relu1 = nn.ReLU()
        self.layer1 = self._stage(16, 16, blocks, first=True)
        self.layer2 = self._stage(16, 32, blocks)
        self.layer3 = self._stage(32, 64, blocks)
        self.bn2 = nn.BatchNorm2d(64)
        self.relu2 = nn.ReLU()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(64, num_classes)
        _initialize(self)

    @staticmethod
    def _stage(
        in_channels: int, channels: int, blocks: int, *, first: bool = False
    ) -> nn.Sequential:
        head = PreactivationBlock(in_channels, channels, 1 if first else 2, first=first)
        rest = (PreactivationBlock(channels, channels, 1, first=False) for _ in range(blocks - 1))
        return nn.Sequential(head, *rest)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.relu1(self.bn1(self.conv1(x)))
        x = self.relu2(self.bn2(self.layer3(self.layer2(self.layer1(x)))))
        logits: torch.Tensor = self.fc(self.flatten(self.avgpool(x)))
        return logits


class ResNet(nn.Module):
    """The ImageNet network, section 4.1: 64 to 512 channels, projection shortcuts.

    Input (N, in_channels, H, W); output (N, num_classes).
    """

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        blocks: tuple[int, int, int, int],
        in_channels: int = 3,
        num_classes: int = 1000,
    ) -> None:
        super().__init__()
        wide = block.expansion
        self.conv1 = nn.Conv2d(in_channels, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.layer1 = _stage(block, 64, 64, blocks[0], 1, "B")
        self.layer2 = _stage(block, 64 * wide, 128, blocks[1], 2, "B")
        self.layer3 = _stage(block, 128 * wide, 256, blocks[2], 2, "B")
        self.layer4 = _stage(block, 256 * wide, 512, blocks[3], 2, "B")
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(512 * wide, num_classes)
        _initialize(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        logits: torch.Tensor = self.fc(self.flatten(self.avgpool(x)))
        return logits


def cifar_resnet(options: CifarResNetOptions, depth: int) -> CifarResNet | PreactivationCifarResNet:
    if options.preactivation:
        return PreactivationCifarResNet(depth, options.in_channels, options.num_classes)
    return CifarResNet(depth, options.in_channels, options.num_classes, options.shortcut)


def resnet18(options: ImageOptions) -> ResNet:
    return ResNet(BasicBlock, (2, 2, 2, 2), options.in_channels, options.num_classes)


def resnet50(options: ImageOptions) -> ResNet:
    return ResNet(Bottleneck, (3, 4, 6, 3), options.in_channels, options.num_classes)
