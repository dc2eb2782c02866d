"""Options of the networks by name, as frozen dataclasses; imports without torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ttq_energy.errors import InputError
from ttq_energy.records import setting

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class ImageOptions:
    """What every image classifier takes.

    Attributes:
        in_channels: of the input image.
        num_classes: width of the last layer.
        image_size: height and width of an input. Networks that pool globally take any size;
            it then only sets the example input.
    """

    in_channels: int = setting(3, low=1)
    num_classes: int = setting(1000, low=1)
    image_size: int = setting(224, low=1)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one input: channels, height, width."""
        return (self.in_channels, self.image_size, self.image_size)

    def example_input(self, batch_size: int) -> torch.Tensor:
        """Standard normal numbers, the same at every call."""
        import torch

        generator = torch.Generator().manual_seed(0)
        return torch.randn(batch_size, *self.input_shape, generator=generator)


@dataclass(frozen=True)
class CifarOptions(ImageOptions):
    """Image options with CIFAR-10's sizes."""

    num_classes: int = setting(10, low=1)
    image_size: int = setting(32, low=1)


@dataclass(frozen=True)
class CifarResNetOptions(CifarOptions):
    """Options of the CIFAR ResNets.

    Attributes:
        shortcut: where a block changes shape: "A" subsamples and pads with zero channels (no
            parameters, as published for CIFAR), "B" is a 1x1 convolution.
        preactivation: normalization and ReLU stand before each convolution (arXiv 1603.05027) and
            option A averages instead of subsampling: the network of TTQ's released code.
    """

    shortcut: str = setting("A", choices=("A", "B"))
    preactivation: bool = False

    def __post_init__(self) -> None:
        if self.preactivation and self.shortcut != "A":
            raise InputError("shortcut: must be A with preactivation, got B")


@dataclass(frozen=True)
class AlexNetOptions(ImageOptions):
    """Options of AlexNet.

    Attributes:
        variant: "torchvision" is the one-column network of Krizhevsky (2014); "original" is that
            of 2012 with grouped convolutions and local response normalization (60,965,224
            parameters, 227 x 227 input); "ttq" is that of TTQ's released code, with batch
            normalization and grouped convolutions.
        image_size: not set: the variant's own, 224 or 227.
        dropout: probability in the classifier; "ttq" has none.
    """

    image_size: int | None = setting(None, low=63)  # type: ignore[assignment]
    variant: str = setting("torchvision", choices=("torchvision", "original", "ttq"))
    dropout: float = setting(0.5, low=0.0, high=1.0)

    @property
    def input_shape(self) -> tuple[int, ...]:
        size = self.image_size or (227 if self.variant == "original" else 224)
        return (self.in_channels, size, size)


@dataclass(frozen=True)
class VGG7Options(CifarOptions):
    """Options of VGG-7.

    Attributes:
        image_size: a multiple of 8; sets the width of the first linear layer.
    """

    image_size: int = setting(32, low=8)

    def __post_init__(self) -> None:
        if self.image_size % 8:
            raise InputError(f"image_size: must be a multiple of 8, got {self.image_size}")


@dataclass(frozen=True)
class VGG16Options(ImageOptions):
    """Options of VGG-16.

    Attributes:
        batch_norm: batch normalization after each convolution (138,365,992 parameters).
        dropout: probability in the classifier.
    """

    image_size: int = setting(224, low=32)
    batch_norm: bool = False
    dropout: float = setting(0.5, low=0.0, high=1.0)


@dataclass(frozen=True)
class MobileNetV2Options(ImageOptions):
    """Options of MobileNetV2.

    Attributes:
        width: multiplier of every layer's channels.
        dropout: probability before the classifier.
    """

    width: float = setting(1.0, above=0.0)
    dropout: float = setting(0.2, low=0.0, high=1.0)


@dataclass(frozen=True)
class ViTOptions(ImageOptions):
    """Options of the vision transformers.

    Attributes:
        image_size: a multiple of the patch size, 16; sets the number of position embeddings.
        dropout: probability on the residual branches' outputs.
    """

    image_size: int = setting(224, low=16)
    dropout: float = setting(0.0, low=0.0, high=1.0)

    def __post_init__(self) -> None:
        if self.image_size % 16:
            raise InputError(f"image_size: must be a multiple of 16, got {self.image_size}")


CHARACTERS = 97
"""Vocabulary of the ``text`` data set: newline, 95 printable ASCII characters, and the rest."""


@dataclass(frozen=True)
class TokenOptions:
    """What every language model takes.

    Attributes:
        vocab: number of different tokens.
        sequence_length: tokens of one example input.
    """

    vocab: int = setting(CHARACTERS, low=2)
    sequence_length: int = setting(128, low=1)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one input: tokens."""
        return (self.sequence_length,)

    def example_input(self, batch_size: int) -> torch.Tensor:
        """Uniformly random tokens, the same at every call."""
        import torch

        generator = torch.Generator().manual_seed(0)
        return torch.randint(self.vocab, (batch_size, *self.input_shape), generator=generator)


@dataclass(frozen=True)
class LSTMOptions(TokenOptions):
    """Options of the LSTM language model.

    Attributes:
        embedding_size: width of the token embedding.
        hidden_size: width of each LSTM layer.
        n_layers: LSTM layers.
        dropout: probability after the embedding, between layers and before the last layer.
        tie_weights: the last layer uses the embedding's weights; the two widths must be equal.
    """

    embedding_size: int = setting(128, low=1)
    hidden_size: int = setting(256, low=1)
    n_layers: int = setting(2, low=1)
    dropout: float = setting(0.0, low=0.0, high=1.0)
    tie_weights: bool = False

    def __post_init__(self) -> None:
        if self.tie_weights and self.embedding_size != self.hidden_size:
            raise InputError(
                f"tie_weights: embedding_size ({self.embedding_size}) and hidden_size "
                f"({self.hidden_size}) must be equal"
            )


PRESETS: dict[str, dict[str, Any]] = {
    "tinyllama-1.1b": {
        "vocab": 32000,
        "n_layers": 22,
        "d_model": 2048,
        "n_heads": 32,
        "n_kv_heads": 4,
        "d_ff": 5632,
        "context": 2048,
        "rms_epsilon": 1e-5,
    },
    "llama-2-7b": {
        "vocab": 32000,
        "n_layers": 32,
        "d_model": 4096,
        "n_heads": 32,
        "n_kv_heads": 32,
        "d_ff": 11008,
        "context": 4096,
        "rms_epsilon": 1e-5,
    },
}
"""Published shapes: TinyLlama-1.1B (arXiv 2401.02385) and Llama 2 7B (arXiv 2307.09288)."""


@dataclass(frozen=True)
class TransformerOptions(TokenOptions):
    """Options of the decoder-only transformer language model.

    Attributes:
        preset: a published shape (tinyllama-1.1b, llama-2-7b), whose values stand where no other
            is given.
        n_layers: decoder blocks.
        d_model: width of the residual stream.
        n_heads: attention heads; d_model / n_heads must be even.
        n_kv_heads: heads of keys and values (grouped-query attention); not set: n_heads.
        d_ff: width inside the feed-forward layer; not set: 8/3 d_model, rounded up
            to a multiple of 32.
        context: longest sequence, cached tokens included.
        dropout: probability on the residual branches' outputs.
        tie_weights: the last layer uses the embedding's weights.
        rope_base: of the rotary position embedding.
        rms_epsilon: of the normalization.
    """

    preset: str | None = setting(None, choices=tuple(PRESETS))
    n_layers: int = setting(4, low=1)
    d_model: int = setting(128, low=2)
    n_heads: int = setting(4, low=1)
    n_kv_heads: int | None = setting(None, low=1)
    d_ff: int | None = setting(None, low=1)
    context: int = setting(1024, low=1)
    dropout: float = setting(0.0, low=0.0, high=1.0)
    tie_weights: bool = False
    rope_base: float = setting(10000.0, above=1.0)
    rms_epsilon: float = setting(1e-6, above=0.0)

    def __post_init__(self) -> None:
        if self.d_model % self.n_heads or (self.d_model // self.n_heads) % 2:
            raise InputError(
                f"n_heads: d_model ({self.d_model}) must be an even multiple of it, "
                f"got {self.n_heads}"
            )
        if self.n_kv_heads is not None and self.n_heads % self.n_kv_heads:
            raise InputError(
                f"n_kv_heads: n_heads ({self.n_heads}) must be a multiple of it, "
                f"got {self.n_kv_heads}"
            )
        if self.sequence_length > self.context:
            raise InputError(
                f"sequence_length: must be at most context ({self.context}), "
                f"got {self.sequence_length}"
            )
