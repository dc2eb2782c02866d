"""LSTM language model: Zaremba, Sutskever, Vinyals, "Recurrent Neural Network Regularization"
(arXiv 1409.2329): embedding, LSTM layers with dropout between them, a linear layer.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from ttq_energy.models.options import LSTMOptions


@dataclass
class LSTMState:
    """The recurrent state between calls; the model replaces it at each call.

    Attributes:
        hidden, cell: (n_layers, N, hidden_size), or None before the first token.
    """

    hidden: torch.Tensor | None = None
    cell: torch.Tensor | None = None


class LSTMLanguageModel(nn.Module):
    """Predicts the next token. Input (N, T) int64; output logits (N, T, vocab)."""

    def __init__(
        self,
        vocab: int,
        embedding_size: int = 128,
        hidden_size: int = 256,
        n_layers: int = 2,
        dropout: float = 0.0,
        tie_weights: bool = False,
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab, embedding_size)
        self.dropout_in = nn.Dropout(dropout)
        between = dropout if n_layers > 1 else 0.0
        self.lstm = nn.LSTM(
            embedding_size, hidden_size, n_layers, batch_first=True, dropout=between
        )
        self.dropout_out = nn.Dropout(dropout)
        self.head = nn.Linear(hidden_size, vocab)
        if tie_weights:
            self.head.weight = self.embedding.weight
        nn.init.uniform_(self.embedding.weight, -0.1, 0.1)

    def forward(self, tokens: torch.Tensor, cache: LSTMState | None = None) -> torch.Tensor:
        """Logits of the token after each of ``tokens``.

        Args:
            tokens: (N, T) int64.
            cache: where the state of earlier tokens lies and that of these is left; None starts
                from zeros and keeps nothing.
        """
        x = self.embedding(tokens)
        if self.training:
            x = self.dropout_in(x)
        if cache is None:
            x, _ = self.lstm(x)
        else:
            before = None
            if cache.hidden is not None and cache.cell is not None:
                before = (cache.hidden, cache.cell)
            x, (cache.hidden, cache.cell) = self.lstm(x, before)
        if self.training:
            x = self.dropout_out(x)
        logits: torch.Tensor = self.head(x)
        return logits

    def new_cache(self, batch_size: int = 1) -> LSTMState:
        """An empty state, to be passed to each call of a sequence of any batch size."""
        return LSTMState()


def lstm_lm(options: LSTMOptions) -> LSTMLanguageModel:
    return LSTMLanguageModel(
        options.vocab,
        options.embedding_size,
        options.hidden_size,
        options.n_layers,
        options.dropout,
        options.tie_weights,
    )
