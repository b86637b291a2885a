"""A small transformer over bytes, with random weights from a seed, and its paged cache of keys and values.

It speaks gibberish, but does the arithmetic of a real one: rotary positions, causal attention over cached keys and
values, any mix of prompts, parts of prompts and single tokens in one pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn.functional import scaled_dot_product_attention, silu

BEGIN, END = 256, 257
VOCABULARY = 258
_SPEAKABLE = [*range(32, 127), END]


def encode(text: str) -> list[int]:
    """Text as tokens: its UTF-8 bytes after a token that says "begin"."""
    return [BEGIN, *text.encode()]


def decode(tokens: Sequence[int]) -> str:
    """Tokens as text."""
    return bytes(token for token in tokens if token < BEGIN).decode("utf-8", "replace")


@dataclass
class Piece:
    """Tokens of one sequence to be run through the model in this pass.

    Attributes:
        tokens: at positions from `start` on.
        blocks: the sequence's blocks of the cache, in order, enough for these tokens.
    """

    tokens: list[int]
    start: int
    blocks: list[int]


class Transformer:
    """The model. With the defaults it has about 470,000 parameters."""

    def __init__(self, seed: int = 0, *, width: int = 128, layers: int = 2, heads: int = 4) -> None:
        random = torch.Generator().manual_seed(seed)

        def weight(*shape: int) -> torch.Tensor:
            scale: float = shape[0] ** -0.5
            return torch.randn(*shape, generator=random) * scale

        self.heads, self.layers, self.size = heads, layers, width // heads
        self.embedding = torch.randn(VOCABULARY, width, generator=random)
        self.attention = [(weight(width, 3 * width), weight(width, width)) for _ in range(layers)]
        self.feed = [(weight(width, 4 * width), weight(4 * width, width)) for _ in range(layers)]
        self.head = weight(width, VOCABULARY) * 2
        self.bias = torch.full((VOCABULARY,), float("-inf"))
        self.bias[_SPEAKABLE] = 0.0
        self.bias[END] = -2.0
        turn = 10_000 ** -(torch.arange(0, self.size, 2) / self.size)
        self._angles = torch.outer(torch.arange(8192), turn)
        self.block_size = 16
        self._keys = self._values = torch.empty(0)

    def reserve(self, blocks: int, block_size: int) -> None:
        """Make a cache of so many blocks of so many tokens."""
        self.block_size = block_size
        shape = (self.layers, blocks * block_size, self.heads, self.size)
        self._keys, self._values = torch.zeros(shape), torch.zeros(shape)

    @torch.inference_mode()
    def run(self, pieces: Sequence[Piece]) -> torch.Tensor:
        """Run the pieces through the model; returns the logits behind the last token of each."""
        size = self.block_size
        tokens = torch.tensor([token for piece in pieces for token in piece.tokens])
        places = [range(piece.start, piece.start + len(piece.tokens)) for piece in pieces]
        positions = torch.tensor([place for range_ in places for place in range_])
        slots = torch.tensor(
            [piece.blocks[at // size] * size + at % size for piece, range_ in zip(pieces, places) for at in range_]  # noqa: B905
        )
        rows, first = [], 0
        for piece in pieces:
            rows.append(slice(first, first + len(piece.tokens)))
            first += len(piece.tokens)
        single = [i for i, piece in enumerate(pieces) if len(piece.tokens) == 1]
        several = [i for i, piece in enumerate(pieces) if len(piece.tokens) > 1]
        single_rows = torch.tensor([rows[i].start for i in single])
        single_slots, single_mask = self._seen([pieces[i] for i in single])
        seen = {i: self._seen([pieces[i]]) for i in several}

        angles = self._angles[positions][:, None]
        cos, sin = angles.cos(), angles.sin()
        x = self.embedding[tokens]
        for layer in range(self.layers):
            project, merge = self.attention[layer]
            query, key, value = (_norm(x) @ project).view(-1, 3, self.heads, self.size).unbind(1)
            query, key = _turned(query, cos, sin), _turned(key, cos, sin)
            keys, values = self._keys[layer], self._values[layer]
            keys[slots], values[slots] = key, value
            found = torch.empty_like(query)
            if single:
                found[single_rows] = _attend(query[single_rows][:, None], keys[single_slots], values[single_slots], single_mask)[:, 0]  # fmt: skip
            for i in several:
                places_, mask = seen[i]
                found[rows[i]] = _attend(query[rows[i]][None], keys[places_], values[places_], mask)[0]
            x = x + found.flatten(1) @ merge
            widen, narrow = self.feed[layer]
            x = x + silu(_norm(x) @ widen) @ narrow
        last = torch.tensor([row.stop - 1 for row in rows])
        return _norm(x[last]) @ self.head + self.bias

    def _seen(self, pieces: Sequence[Piece]) -> tuple[torch.Tensor, torch.Tensor]:
        """Cache slots of the sequences so far, padded to the longest, and which of them each token may look at.

        All pieces have the same number of tokens.
        """
        if not pieces:
            return torch.empty(0), torch.empty(0)
        size = self.block_size
        needed = [-(-(piece.start + len(piece.tokens)) // size) for piece in pieces]
        longest = max(needed)
        tables = torch.tensor([(piece.blocks[:longest] + [0] * longest)[:longest] for piece in pieces])
        slots = (tables[:, :, None] * size + torch.arange(size)).flatten(1)
        last = torch.tensor([[piece.start + i for i in range(len(piece.tokens))] for piece in pieces])
        return slots, (torch.arange(longest * size) <= last[..., None])[:, None]


def _norm(x: torch.Tensor) -> torch.Tensor:
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6)


def _turned(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    even, odd = x[..., ::2], x[..., 1::2]
    return torch.cat((even * cos - odd * sin, even * sin + odd * cos), -1)


def _attend(query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Attention; query (sequence, token, head, size), keys and values (sequence, slot, head, size)."""
    query, keys, values = (each.transpose(1, 2) for each in (query, keys, values))
    return scaled_dot_product_attention(query, keys, values, attn_mask=mask).transpose(1, 2)
