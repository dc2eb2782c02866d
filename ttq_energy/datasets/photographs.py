"""Photographs decoded as they are needed: cutting, scaling, mirroring, color, normalization.

Random choices come from torch's global state, which the loaders seed for each example.
"""

from __future__ import annotations

import io
import math
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch.utils.data import Dataset

from ttq_energy.errors import InputError

if TYPE_CHECKING:
    from PIL import Image

AUGMENTATIONS = ("inception", "scale", "alexnet", "none")
MEAN = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
DEVIATION = torch.tensor([0.229, 0.224, 0.225])[:, None, None]
"""Of ImageNet's training images, RGB in 0 to 1: the figures that torchvision and timm use."""
PCA_VALUES = torch.tensor([0.2175, 0.0188, 0.0045])
PCA_VECTORS = torch.tensor(
    [
        [-0.5675, 0.7192, 0.4009],
        [-0.5808, -0.0045, -0.8140],
        [-0.5836, -0.6948, 0.4203],
    ]
)
"""Principal components of RGB over ImageNet's training pixels, from facebook/fb.resnet.torch."""
PUBLISHED_SIZE = 224
"""Input size that the scales of the augmentations go with."""


class Files(Protocol):
    """Encoded images and their labels."""

    labels: np.ndarray[Any, np.dtype[np.int64]]

    def read(self, index: int) -> bytes:
        """The encoded image at ``index``."""
        ...

    def name(self, index: int) -> str:
        """Where it lies, for messages."""
        ...


class Photographs(Dataset[Any]):
    """Images as (x, y): x (3, size, size) float32, normalized; y the class.

    ``dataset[i]`` cuts the middle of the image; ``dataset.augmented(i)`` chooses at random.

    Args:
        files: the encoded images.
        size: height and width.
        augmentation: "inception": 8 to 100 % of the area at aspects of 3/4 to 4/3 (arXiv
            1409.4842); "scale": a window of the image scaled to a shorter side of 256 to 480
            (arXiv 1409.1556, 1512.03385); "alexnet": a window of the middle 256 x 256 (Krizhevsky
            et al. 2012); each mirrored at random; or "none".
        lighting: standard deviation of the color shift along RGB's principal components, as in
            Krizhevsky et al. 2012 (there 0.1); 0 for none.
    """

    def __init__(
        self, files: Files, size: int, augmentation: str = "none", lighting: float = 0.0
    ) -> None:
        self.files, self.size = files, size
        self.augmentation, self.lighting = augmentation, lighting

    def __len__(self) -> int:
        return len(self.files.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        image = self._decode(index)
        side = self._scaled(256)
        return self._finish(_center(_shorter_side(image, side), self.size)), self._label(index)

    def augmented(self, index: int) -> tuple[torch.Tensor, int]:
        """The example with random cut, mirror and color."""
        if self.augmentation == "none":
            return self[index]
        image = self._decode(index)
        if self.augmentation == "inception":
            image = _random_area(image, self.size)
        elif self.augmentation == "scale":
            low, high = self._scaled(256), self._scaled(480)
            image = _random_window(_shorter_side(image, _random_integer(low, high)), self.size)
        else:
            side = self._scaled(256)
            image = _random_window(_center(_shorter_side(image, side), side), self.size)
        x = self._finish(image, self.lighting)
        return (x.flip(2) if float(torch.rand(())) < 0.5 else x), self._label(index)

    def _scaled(self, published: int) -> int:
        return round(published * self.size / PUBLISHED_SIZE)

    def _label(self, index: int) -> int:
        return int(self.files.labels[index])

    def _decode(self, index: int) -> Image.Image:
        from PIL import Image, UnidentifiedImageError

        try:
            return Image.open(io.BytesIO(self.files.read(index))).convert("RGB")
        except InputError:
            raise
        except UnidentifiedImageError:
            raise InputError(
                f"{self.files.name(index)}: damaged: expected an image, its format is unknown"
            ) from None
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise InputError(
                f"{self.files.name(index)}: damaged: expected an image: {error}"
            ) from None

    @staticmethod
    def _finish(image: Image.Image, lighting: float = 0.0) -> torch.Tensor:
        pixels = np.array(image, dtype=np.float32) / 255.0
        x = torch.from_numpy(pixels).permute(2, 0, 1)
        if lighting:
            strength = torch.randn(3) * lighting * PCA_VALUES
            x = x + (PCA_VECTORS @ strength)[:, None, None]
        return ((x - MEAN) / DEVIATION).contiguous()


def _random_integer(low: int, high: int) -> int:
    """From low to high, both included."""
    return int(torch.randint(low, high + 1, ()))


def _resize(
    image: Image.Image, width: int, height: int, box: tuple[int, int, int, int] | None = None
) -> Image.Image:
    from PIL import Image

    return image.resize((width, height), Image.Resampling.BILINEAR, box=box)


def _shorter_side(image: Image.Image, side: int) -> Image.Image:
    width, height = image.size
    factor = side / min(width, height)
    return _resize(image, max(side, round(width * factor)), max(side, round(height * factor)))


def _center(image: Image.Image, side: int) -> Image.Image:
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side))


def _random_window(image: Image.Image, side: int) -> Image.Image:
    left = _random_integer(0, image.width - side)
    top = _random_integer(0, image.height - side)
    return image.crop((left, top, left + side, top + side))


def _random_area(image: Image.Image, side: int) -> Image.Image:
    """A part of random area and aspect, scaled to a square; the middle after ten misses."""
    area = image.width * image.height
    for _ in range(10):
        part = area * (0.08 + 0.92 * float(torch.rand(())))
        aspect = math.exp((2 * float(torch.rand(())) - 1) * math.log(4 / 3))
        width, height = round(math.sqrt(part * aspect)), round(math.sqrt(part / aspect))
        if 0 < width <= image.width and 0 < height <= image.height:
            left = _random_integer(0, image.width - width)
            top = _random_integer(0, image.height - height)
            return _resize(image, side, side, (left, top, left + width, top + height))
    return _center(_shorter_side(image, side), side)
