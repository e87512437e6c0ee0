"""An autoregressive distribution of sequences of codes: a small causal Transformer."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_gans.errors import check_counts, check_repeats, invalid
from lightning_gans.losses import full_precision
from lightning_gans.networks.conditioning import check_labels, look_up

Memory = list[tuple[Tensor, Tensor]]
"""Keys and values of the earlier places, for each block: ``(N, num_heads, places, width / num_heads)`` each."""


class _Block(nn.Module):
    """Causal self-attention and a hidden layer, each after LayerNorm and added to its input."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        self.attend, self.project = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.hidden = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, tokens: Tensor, past: tuple[Tensor, Tensor] | None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Map tokens ``(N, T, width)`` to the same shape; with a past, T is 1."""
        heads = self.attend(self.norms[0](tokens)).unflatten(2, (3, self.num_heads, -1))
        queries, keys, values = heads.permute(2, 0, 3, 1, 4)  # (N, num_heads, T, width / num_heads) each
        if past is not None:
            keys, values = torch.cat([past[0], keys], 2), torch.cat([past[1], values], 2)
        attended = F.scaled_dot_product_attention(queries, keys, values, is_causal=past is None)
        tokens = tokens + self.project(attended.transpose(1, 2).flatten(2))
        return tokens + self.hidden(self.norms[1](tokens)), (keys, values)


class CodePrior(nn.Module):
    """The distribution of each code of a sequence given those before it, and given a label (Vaswani et al. 2017).

    Args:
        num_codes: Number K of codes.
        length: Length T of the sequences.
        width: Length of the vectors that stand for codes, a multiple of ``num_heads``.
        num_layers: Number of blocks of attention and hidden layer.
        num_heads: Number of attention heads.
        num_classes: Number of classes; 0 for an unconditional network.

    Raises:
        SettingError: A setting is invalid.
    """

    def __init__(
        self,
        num_codes: int,
        length: int,
        width: int = 128,
        num_layers: int = 4,
        num_heads: int = 4,
        num_classes: int = 0,
    ) -> None:
        super().__init__()
        check_counts(num_codes=num_codes, length=length, width=width, num_heads=num_heads)
        check_repeats(num_layers=num_layers)
        if width % num_heads:
            raise invalid("width", width, f"a multiple of num_heads, {num_heads}")
        self.length = length
        self.num_classes = num_classes
        self.first = nn.Embedding(max(num_classes, 1), width)
        self.codes = nn.Embedding(num_codes, width)
        self.places = nn.Parameter(torch.zeros(length, width))
        self.blocks = nn.ModuleList([_Block(width, num_heads) for _ in range(num_layers)])
        self.norm, self.output = nn.LayerNorm(width), nn.Linear(width, num_codes)
        for weight in (self.first.weight, self.codes.weight, self.places):
            nn.init.normal_(weight, std=0.02)

    def forward(self, previous: Tensor, labels: Tensor | None = None, memory: Memory | None = None) -> Tensor:
        """Return the logits of the codes that follow.

        Args:
            previous: The first t codes of each sequence, int64 ``(N, t)``; with a memory that is not empty, only the
                last of them, ``(N, 1)``.
            labels: Classes ``(N,)``, or weights of the classes, ``(N, num_classes)``, for a conditional network.
            memory: Filled by calls for one place after the other; an empty list at first.

        Returns:
            Logits of places 0 to t, ``(N, t + 1, K)``; with a memory, of the next place only, ``(N, 1, K)``.
        """
        check_labels(labels, self.num_classes)
        place = memory[0][0].shape[2] if memory else 0
        tokens = self.codes(previous)
        if place == 0:
            classes = labels if labels is not None else previous.new_zeros(previous.shape[0])
            tokens = torch.cat([look_up(self.first, classes)[:, None], tokens], 1)
        tokens = tokens + self.places[place : place + tokens.shape[1]]
        pasts = list(memory) if memory else [None] * len(self.blocks)
        kept = []
        for block, past in zip(self.blocks, pasts, strict=True):
            tokens, keys_and_values = block(tokens, past)
            kept.append(keys_and_values)
        if memory is not None:
            memory[:] = kept
        logits: Tensor = self.output(self.norm(tokens))
        return logits

    def nll(self, codes: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return the negative log-likelihood of sequences ``(N, T)``, nats ``(N,)``."""
        logits = full_precision(self(codes[:, :-1], labels))
        return F.cross_entropy(logits.transpose(1, 2), codes, reduction="none").sum(1)

    def generate(self, uniforms: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return the sequences that numbers in [0, 1) stand for, both ``(N, T)``; uniform numbers give samples.

        Each number chooses a code by the cumulative distribution of its place.
        """
        memory: Memory = []
        chosen = uniforms.new_zeros(uniforms.shape[0], 0, dtype=torch.long)  # len() would fix the size in an export
        for place in range(self.length):
            logits = full_precision(self(chosen[:, -1:], labels, memory))[:, 0]
            below = logits.softmax(1).cumsum(1) <= uniforms[:, place, None]
            code = below.sum(1).clamp(max=logits.shape[1] - 1)
            chosen = torch.cat([chosen, code[:, None]], 1)
        return chosen
