"""The sentence-transformers patch, on the real library with a model made on the spot."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest

from aiobs import patches
from aiobs.serving import ServerRequest
from aiobs.testing import capture

from .tiny_models import tokenizer

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
library = pytest.importorskip("sentence_transformers")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds a BERT of random weights and its tokenizer."""
    path = tmp_path_factory.mktemp("models") / "tiny-bert"
    config = transformers.BertConfig(
        vocab_size=64, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, num_labels=1
    )
    torch.manual_seed(0)
    transformers.BertForSequenceClassification(config).save_pretrained(path)
    tokenizer().save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def encoder(folder: Path) -> Any:
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    words = Transformer(str(folder))
    return library.SentenceTransformer(modules=[words, Pooling(16)], device="cpu")


def test_encoding_is_an_embeddings_span(encoder: Any) -> None:
    texts = ["w3 w4", "w5"]
    without = encoder.encode(texts)
    with capture() as captured:
        with_us = encoder.encode(texts)
        encoder.encode_query("w3")
    assert (without == with_us).all()
    many, one = [it for it in captured.spans if it.name.startswith("embeddings ")]
    assert many.name == "embeddings tiny-bert"
    assert many.attributes == {
        "gen_ai.operation.name": "embeddings",
        "gen_ai.provider.name": "sentence_transformers",
        "gen_ai.request.model": "tiny-bert",
        "aiobs.request.inputs": 2,
        "gen_ai.embeddings.dimension.count": 16,
    }
    assert one.attributes["aiobs.request.inputs"] == 1


def test_inside_a_servers_request_it_says_so_there_too(encoder: Any) -> None:
    with capture() as captured:
        request = ServerRequest.begin("POST /embed", {}, {}.get, "")
        encoder.encode(["w3"])
        request.end()
    served = captured.span("POST /embed")
    assert served.attributes["gen_ai.operation.name"] == "embeddings"
    assert [child.name for child in captured.children(served)] == ["embeddings tiny-bert"]


def test_reranking_is_told_apart(folder: Path) -> None:
    judge = library.CrossEncoder(str(folder), device="cpu")
    with capture() as captured:
        scores = judge.predict([("w3", "w4"), ("w5", "w6")])
    assert len(scores) == 2
    assert captured.span("rerank tiny-bert").attributes["aiobs.request.inputs"] == 2


def test_errors_and_signatures_stay(encoder: Any) -> None:
    signature = inspect.signature(library.SentenceTransformer.encode)
    with capture() as captured:
        assert "sentence_transformers" in patches.active()
        assert inspect.signature(library.SentenceTransformer.encode) == signature
        with pytest.raises(ValueError):
            encoder.encode(["w3"], prompt_name="no such prompt")
    assert next(it for it in captured.spans if it.name.startswith("embeddings")).status == 2
