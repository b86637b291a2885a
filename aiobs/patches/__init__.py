"""Patches: each makes one foreign library record through aiobs, from the moment that library is imported.

A patch's own module is imported only then, so that a process pays for the libraries it uses and no others.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path

from aiobs.guard import swallow
from aiobs.imports import when_imported
from aiobs.patches.base import PATCH_GROUP, Patch, trigger
from aiobs.settings import Settings

Row = tuple[str, str, Callable[[], Callable[[], Patch]]]
"""Name of the patch, module whose import calls for it, loader of what makes it."""

BUILT_IN = (
    ("torch", "torch", "aiobs.patches.torch:TorchPatch"),
    ("lightning", "lightning.pytorch", "aiobs.patches.lightning:LightningPatch"),
    ("lightning", "pytorch_lightning", "aiobs.patches.lightning:PytorchLightningPatch"),
    ("openai", "openai", "aiobs.patches.openai:OpenAIPatch"),
    ("httpx", "httpx", "aiobs.patches.clients.http:HttpxPatch"),
    ("httpx", "httpx2", "aiobs.patches.clients.http:Httpx2Patch"),
    ("requests", "requests", "aiobs.patches.clients.http:RequestsPatch"),
    ("aiohttp_client", "aiohttp", "aiobs.patches.clients.http:AiohttpPatch"),
    ("grpc_client", "grpc", "aiobs.patches.clients.grpc:GrpcClientPatch"),
    ("grpc", "grpc", "aiobs.patches.grpc:GrpcPatch"),
    ("wsgi", "gunicorn.workers.base", "aiobs.patches.wsgi:GunicornPatch"),
    ("wsgi", "werkzeug.serving", "aiobs.patches.wsgi:WerkzeugPatch"),
    ("wsgi", "waitress.server", "aiobs.patches.wsgi:WaitressPatch"),
    ("wsgi", "cheroot.wsgi", "aiobs.patches.wsgi:CherootPatch"),
    ("wsgi", "gevent.pywsgi", "aiobs.patches.wsgi:GeventPatch"),
    ("wsgi", "wsgiref.handlers", "aiobs.patches.wsgi:WsgirefPatch"),
    ("flask", "flask.app", "aiobs.patches.web_routes:FlaskPatch"),
    ("django", "django.core.handlers.base", "aiobs.patches.web_routes:DjangoPatch"),
    ("falcon", "falcon.app", "aiobs.patches.web_routes:FalconPatch"),
    ("asgi", "uvicorn", "aiobs.patches.asgi:UvicornPatch"),
    ("asgi", "hypercorn.app_wrappers", "aiobs.patches.asgi:HypercornPatch"),
    ("asgi", "starlette.background", "aiobs.patches.asgi:BackgroundPatch"),
    ("asgi", "quart.app", "aiobs.patches.asgi:QuartPatch"),
    ("transformers", "transformers.generation.utils", "aiobs.patches.engines.transformers:TransformersPatch"),
    ("transformers", "transformers.generation.streamers", "aiobs.patches.engines.streamers:StreamersPatch"),
    (
        "transformers",
        "transformers.generation.continuous_batching.continuous_api",
        "aiobs.patches.engines.continuous:ContinuousBatchingPatch",
    ),
    ("transformers", "transformers.pipelines.base", "aiobs.patches.engines.pipelines:PipelinesPatch"),
    ("torchscript", "torch", "aiobs.patches.engines.torchscript:TorchScriptPatch"),
    ("vllm", "vllm.v1.engine.async_llm", "aiobs.patches.engines.vllm:AsyncVllmPatch"),
    ("vllm", "vllm.entrypoints.llm", "aiobs.patches.engines.vllm:VllmPatch"),
    ("sglang", "sglang.srt.managers.tokenizer_manager", "aiobs.patches.engines.sglang:SglangPatch"),
    ("ray_serve", "ray.serve._private.default_impl", "aiobs.patches.engines.ray_serve:RayHandlesPatch"),
    ("ray_serve", "ray.serve._private.replica", "aiobs.patches.engines.ray_serve:RayReplicasPatch"),
    ("ray_serve", "ray.serve.batching", "aiobs.patches.engines.ray_serve:RayBatchesPatch"),
    ("llama_cpp", "llama_cpp.llama", "aiobs.patches.engines.llama_cpp:LlamaCppPatch"),
    ("onnxruntime", "onnxruntime", "aiobs.patches.engines.onnxruntime:OnnxRuntimePatch"),
    (
        "sentence_transformers",
        "sentence_transformers",
        "aiobs.patches.engines.sentence_transformers:SentenceTransformersPatch",
    ),
)

_waiting: dict[tuple[str, str], Callable[[], None]] = {}
_installed: dict[tuple[str, str], Patch] = {}


def known() -> Iterator[Row]:
    """Every patch there is: the built-in ones and those of other distributions (``aiobs_patch``)."""
    for name, module, path in BUILT_IN:
        yield name, module, _loader(path)
    if not _others_installed():
        return
    from importlib.metadata import entry_points

    for entry in entry_points(group=PATCH_GROUP):
        yield entry.name, trigger(entry), entry.load


def _others_installed() -> bool:
    """Whether any distribution on the path brings patches; asking ``importlib.metadata`` costs 15 ms of imports."""
    wanted = f"[{PATCH_GROUP}]".encode()
    for folder in dict.fromkeys(sys.path):
        try:
            names = os.listdir(folder or ".")
        except OSError:
            continue
        for name in names:
            if name.endswith((".dist-info", ".egg-info")):
                try:
                    if wanted in Path(folder, name, "entry_points.txt").read_bytes():
                        return True
                except OSError:
                    continue
    return False


def _loader(path: str) -> Callable[[], Callable[[], Patch]]:
    def load() -> Callable[[], Patch]:
        module, _, name = path.partition(":")
        made: Callable[[], Patch] = getattr(import_module(module), name)
        return made

    return load


def install_all(settings: Settings, *, only: str = "") -> None:
    """Install every patch (or `only` that of this name) that `settings` does not switch off: now where its library
    is imported, else then."""
    if "all" in settings.patches_off:
        return
    for name, module, load in known():
        if name in settings.patches_off or only not in ("", name):
            continue
        key = name, module
        if key not in _waiting and key not in _installed:
            _waiting[key] = when_imported(module, _installer(key, load, settings))


def _installer(
    key: tuple[str, str], load: Callable[[], Callable[[], Patch]], settings: Settings
) -> Callable[..., None]:
    def install(_module: object) -> None:
        patch = load()()
        try:
            patch.install(settings)
        except Exception as error:
            patch.remove()
            swallow(f"patches.{key[0]}", error)
            return
        _installed[key] = patch

    return install


def remove(name: str) -> None:
    """Take the patch of that name out: finish what it is recording and put every patched object back."""
    for key in [key for key in _waiting if key[0] == name]:
        _waiting.pop(key)()
    for key in [key for key in _installed if key[0] == name]:
        patch = _installed.pop(key)
        try:
            patch.remove()
        except Exception as error:
            swallow(f"patches.{name}", error)


def remove_all() -> None:
    """Take all patches out, the last first."""
    for name in reversed([*dict.fromkeys(name for name, _ in [*_waiting, *_installed])]):
        remove(name)


def active() -> list[str]:
    """Names of the patches that are in force."""
    return sorted({name for name, _ in _installed})


def pending() -> list[str]:
    """Names of the patches that wait for their library to be imported."""
    return sorted({name for name, module in _waiting if module not in sys.modules})
