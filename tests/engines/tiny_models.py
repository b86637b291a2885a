"""Models of random weights, small enough to make in a test."""

from __future__ import annotations

from typing import Any

WORDS = 64
END = 63


def llama(seed: int = 0, end: int | None = None) -> Any:
    """A Llama of two layers; `end` is the token that ends an answer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=WORDS, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=256, eos_token_id=end, pad_token_id=0, bos_token_id=1,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def prompt(rows: int = 1, length: int = 8) -> dict[str, Any]:
    """Arguments of ``generate()`` for `rows` prompts."""
    import torch

    tokens = torch.arange(2, 2 + length).repeat(rows, 1) + torch.arange(rows)[:, None]
    return {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}


def tokenizer() -> Any:
    """A tokenizer whose words are ``w0`` to ``w63``."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {f"w{number}": number for number in range(WORDS)}
    made = Tokenizer(models.WordLevel(words, unk_token="w1"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=made, unk_token="w1", pad_token="w0", eos_token="w63")
