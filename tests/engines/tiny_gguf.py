"""A Llama model of random weights in a GGUF file of some kilobytes, made with the ``gguf`` package."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np

WIDTH, LAYERS, HEADS, HIDDEN = 32, 1, 2, 64


def write(path: Path) -> Path:
    """Write the model to `path`; its words are the printable ASCII characters and all bytes."""
    random = np.random.default_rng(0)
    words = [
        "<unk>",
        "<s>",
        "</s>",
        *(f"<0x{byte:02X}>" for byte in range(256)),
        *(f"▁{chr(c)}" for c in range(97, 123)),
    ]
    kinds = [2, 3, 3, *[6] * 256, *[1] * 26]
    file = gguf.GGUFWriter(str(path), "llama")
    file.add_name("tiny llama")
    file.add_context_length(256)
    file.add_embedding_length(WIDTH)
    file.add_block_count(LAYERS)
    file.add_feed_forward_length(HIDDEN)
    file.add_head_count(HEADS)
    file.add_head_count_kv(HEADS)
    file.add_layer_norm_rms_eps(1e-5)
    file.add_rope_dimension_count(WIDTH // HEADS)
    file.add_vocab_size(len(words))
    file.add_tokenizer_model("llama")
    file.add_token_list(words)
    file.add_token_scores([0.0] * len(words))
    file.add_token_types(kinds)
    file.add_bos_token_id(1)
    file.add_eos_token_id(2)
    file.add_unk_token_id(0)

    def tensor(name: str, *shape: int) -> None:
        values: Any = random.standard_normal(shape).astype(np.float32)
        file.add_tensor(name, values)

    tensor("token_embd.weight", len(words), WIDTH)
    for layer in range(LAYERS):
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            tensor(f"blk.{layer}.{name}.weight", WIDTH, WIDTH)
        for name in ("attn_norm", "ffn_norm"):
            tensor(f"blk.{layer}.{name}.weight", WIDTH)
        tensor(f"blk.{layer}.ffn_gate.weight", HIDDEN, WIDTH)
        tensor(f"blk.{layer}.ffn_up.weight", HIDDEN, WIDTH)
        tensor(f"blk.{layer}.ffn_down.weight", WIDTH, HIDDEN)
    tensor("output_norm.weight", WIDTH)
    tensor("output.weight", len(words), WIDTH)
    file.write_header_to_file()
    file.write_kv_data_to_file()
    file.write_tensors_to_file()
    file.close()
    return path
