"""Who serves: replicas announce themselves here, and the router asks. Part of the control plane: no request passes."""

from __future__ import annotations

import threading
from collections.abc import Callable

from fastapi import FastAPI

ANNOUNCED_S = 1.0


def create_app() -> FastAPI:
    """The registry's application. It forgets nobody: whether a replica lives is for the router to find out."""
    app = FastAPI(title="serve_llm registry")
    known: dict[str, str] = {}

    @app.put("/replicas/{name}")
    async def announce(name: str, url: str) -> dict[str, str]:
        known[name] = url
        return known

    @app.get("/replicas")
    async def replicas() -> dict[str, str]:
        return known

    return app


def keep_announced(registry: str, name: str, url: str, listens: Callable[[], bool]) -> threading.Thread:
    """Tell the registry again and again, from a thread, that `name` serves at `url`, once it `listens`.

    Nobody waits for the registry here: one that is gone or hangs costs a replica nothing.
    """
    import httpx

    def tell() -> None:
        pause = threading.Event()
        with httpx.Client(base_url=registry, timeout=ANNOUNCED_S, trust_env=False) as client:
            while not pause.wait(ANNOUNCED_S if listens() else 0.05):
                if listens():
                    try:
                        client.put(f"/replicas/{name}", params={"url": url})
                    except httpx.HTTPError:
                        continue

    thread = threading.Thread(target=tell, name="announce", daemon=True)
    thread.start()
    return thread
