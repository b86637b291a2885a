"""The llama-cpp-python patch: against a stand-in of its interface (tests/engines/standins/llama_cpp.py) always, and
against the real library with a model of random weights where that is installed."""

from __future__ import annotations

import inspect
import os
from pathlib import Path
from typing import Any

import pytest

from aiobs import patches
from aiobs.serving import ServerRequest
from aiobs.testing import capture

from .standins import llama_cpp as standin


@pytest.fixture
def llama(monkeypatch: pytest.MonkeyPatch) -> Any:
    return standin.install(monkeypatch).Llama()


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Any:
    library = pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed: it compiles llama.cpp")
    pytest.importorskip("gguf")
    from .tiny_gguf import write

    path = write(tmp_path_factory.mktemp("models") / "tiny.gguf")
    return library.Llama(str(path), n_ctx=128, n_threads=1, verbose=False)


def test_a_completion_has_its_phases(llama: Any) -> None:
    with capture() as captured:
        answer = llama("abc", max_tokens=5)
    assert answer["usage"]["completion_tokens"] == 5
    whole = captured.span("text_completion tiny llama")
    facts = whole.attributes
    assert [child.name for child in captured.children(whole)] == ["queue", "prefill", "decode"]
    assert (facts["gen_ai.usage.input_tokens"], facts["gen_ai.usage.output_tokens"]) == (4, 5)
    assert facts["gen_ai.response.finish_reasons"] == ["length"]
    assert 0.02 <= facts["aiobs.request.time_to_first_token"] < 0.2
    assert 0.009 <= facts["aiobs.request.time_per_output_token"] < 0.1


def test_the_token_that_ends_an_answer_is_no_part_of_it(llama: Any) -> None:
    llama.made = 3
    with capture() as captured:
        whole = llama("abc")
        chunks = list(llama("abc", stream=True))
    assert whole["usage"]["completion_tokens"] == 3
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
    first, streamed = captured.named("text_completion tiny llama")
    for it in (first, streamed):
        assert it.attributes["gen_ai.usage.output_tokens"] == 3
        assert it.attributes["gen_ai.response.finish_reasons"] == ["stop"]
    assert streamed.attributes["gen_ai.usage.input_tokens"] == 4
    assert streamed.attributes["gen_ai.request.stream"] is True


def test_a_streamed_chat_answers_the_servers_request(llama: Any) -> None:
    with capture() as captured:
        request = ServerRequest.begin("POST /chat", {}, {}.get, "")
        for _ in llama.create_chat_completion([{"role": "user", "content": "ab"}], max_tokens=4, stream=True):
            request.chunk()
        request.end()
    served = captured.span("POST /chat")
    assert served.attributes["gen_ai.operation.name"] == "chat"
    assert served.attributes["gen_ai.usage.output_tokens"] == 4
    assert [child.name for child in captured.children(served)] == ["queue", "prefill", "decode"]


def test_a_reader_that_leaves_is_no_error(llama: Any) -> None:
    with capture() as captured:
        chunks = llama("abc", stream=True)
        next(chunks)
        chunks.close()
    whole = captured.span("text_completion tiny llama")
    assert (whole.status, whole.attributes["aiobs.request.aborted"]) == (0, "closed")


@pytest.mark.parametrize("stream", [False, True])
def test_errors_are_the_callers(llama: Any, stream: bool) -> None:
    with capture() as captured, pytest.raises(RuntimeError, match="llama_decode"):
        list(llama([13], stream=stream))
    assert captured.span("text_completion tiny llama").status == 2


def test_embeddings_are_told_apart(llama: Any) -> None:
    with capture() as captured:
        llama.create_embedding(["one", "two"])
    facts = captured.span("embeddings tiny llama").attributes
    assert (facts["gen_ai.usage.input_tokens"], facts["aiobs.request.inputs"]) == (4, 2)
    assert facts["gen_ai.embeddings.dimension.count"] == 2


def test_a_forked_worker_records_too(llama: Any) -> None:
    with capture() as captured:
        child = os.fork()
        if not child:
            llama("abc", max_tokens=2)
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
    assert captured.span("text_completion tiny llama").attributes["gen_ai.usage.output_tokens"] == 2


def test_everything_is_put_back(llama: Any) -> None:
    kind = standin.Llama
    before, signature = kind.create_completion, inspect.signature(kind.create_completion)
    with capture():
        assert "llama_cpp" in patches.active()
        assert inspect.signature(kind.create_completion) == signature
        assert kind.create_completion is not before
    assert kind.create_completion is before


def test_the_real_library_says_the_same(real: Any) -> None:
    def asked() -> Any:
        return real("a b c", max_tokens=8, temperature=0)

    without = asked()
    with capture() as captured:
        with_us = asked()
        streamed = list(real("a b", max_tokens=5, temperature=0, stream=True))
        real.create_chat_completion([{"role": "user", "content": "a"}], max_tokens=3, temperature=0)
    assert with_us["choices"] == without["choices"]
    first, second = captured.named("text_completion tiny llama")
    assert first.attributes["gen_ai.usage.output_tokens"] == with_us["usage"]["completion_tokens"]
    assert first.attributes["gen_ai.usage.input_tokens"] == with_us["usage"]["prompt_tokens"]
    assert [child.name for child in captured.children(first)] == ["queue", "prefill", "decode"]
    assert second.attributes["gen_ai.response.finish_reasons"] == [streamed[-1]["choices"][0]["finish_reason"]]
    assert captured.span("chat tiny llama").attributes["gen_ai.usage.output_tokens"] == 3


def test_the_models_name_is_that_of_its_file_where_it_has_none(llama: Any, tmp_path: Path) -> None:
    llama.metadata, llama.model_path = {}, str(tmp_path / "mistral-7b.Q4_K_M.gguf")
    with capture() as captured:
        llama("abc", max_tokens=1)
    assert captured.span("text_completion mistral-7b.Q4_K_M.gguf")
