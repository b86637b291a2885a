"""A LitServe server: ``python litserve_app.py PORT plain|stream|openai``."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from typing import Any

import litserve


class Square(litserve.LitAPI):
    def setup(self, device: str) -> None:
        self.model = lambda number: number**2

    def decode_request(self, request):  # type: ignore[no-untyped-def]  # LitServe reads the annotation
        return request["input"]

    def predict(self, number: Any) -> Any:
        return self.model(number)

    def encode_response(self, output: Any) -> Any:
        return {"output": output}


class Count(Square):
    def predict(self, number: Any) -> Iterator[int]:
        for step in range(number):
            time.sleep(0.02)
            yield step

    def encode_response(self, output: Any) -> Iterator[str]:
        for step in output:
            yield f"data: {step}\n\n"


class Chat(litserve.LitAPI):
    def setup(self, device: str) -> None:
        pass

    def predict(self, prompt: Any) -> Iterator[str]:
        for word in ("one", "two", "three"):
            time.sleep(0.02)
            yield word


if __name__ == "__main__":
    port, kind = int(sys.argv[1]), sys.argv[2]
    api: Any = {"plain": Square, "stream": Count}.get(kind, Chat)
    made = api(spec=litserve.OpenAISpec()) if api is Chat else api(stream=kind == "stream")
    litserve.LitServer(made, accelerator="cpu").run(port=port, generate_client_file=False, num_api_servers=1)
