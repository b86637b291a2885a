"""The ONNX Runtime patch, on the real library."""

from __future__ import annotations

import inspect
import threading
from pathlib import Path
from typing import Any

import pytest

from aiobs import patches, span
from aiobs.serving import ServerRequest
from aiobs.testing import capture

np = pytest.importorskip("numpy")
onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

RUN = "onnxruntime run"


def model_bytes() -> bytes:
    """``y = x @ ones``; x has 4 columns."""
    make, kind = onnx.helper, onnx.TensorProto.FLOAT
    graph = make.make_graph(
        [make.make_node("MatMul", ["x", "w"], ["y"])],
        "matmul",
        [make.make_tensor_value_info("x", kind, ["rows", 4])],
        [make.make_tensor_value_info("y", kind, ["rows", 3])],
        [make.make_tensor("w", kind, [4, 3], np.ones(12, np.float32))],
    )
    made = make.make_model(graph, opset_imports=[make.make_opsetid("", 17)], ir_version=9)
    found: bytes = made.SerializeToString()
    return found


def session(source: Any = None) -> Any:
    return onnxruntime.InferenceSession(source or model_bytes(), providers=["CPUExecutionProvider"])


X = np.ones((2, 4), np.float32)


def test_a_run_says_which_model_ran_where_on_what() -> None:
    ours = session()
    without = ours.run(None, {"x": X})
    with capture() as captured, span("handler"):
        with_us = ours.run(None, {"x": X})
    assert np.array_equal(without[0], with_us[0])
    run = captured.span(RUN)
    assert run.parent_id == captured.span("handler").span_id
    assert run.attributes == {
        "aiobs.model.name": "matmul",
        "aiobs.model.provider": "CPUExecutionProvider",
        "aiobs.model.inputs": "x[2,4]",
    }


def test_a_model_from_a_file_has_the_files_name(tmp_path: Path) -> None:
    (tmp_path / "ranker.onnx").write_bytes(model_bytes())
    with capture() as captured:
        session(str(tmp_path / "ranker.onnx")).run(None, {"x": X})
    assert captured.span(RUN).attributes["aiobs.model.name"] == "ranker"


def test_bindings_and_ort_values_are_seen() -> None:
    ours = session()
    with capture() as captured:
        binding = ours.io_binding()
        binding.bind_cpu_input("x", X)
        binding.bind_output("y")
        ours.run_with_iobinding(binding)
        value = onnxruntime.OrtValue.ortvalue_from_numpy(X)
        ours.run_with_ort_values(["y"], {"x": value})
    bound, valued = captured.named(RUN)
    assert "aiobs.model.inputs" not in bound.attributes
    assert valued.attributes["aiobs.model.inputs"] == "x[2,4]"


def test_an_asynchronous_run_ends_when_it_calls_back() -> None:
    ours, done = session(), threading.Event()
    answers: list[Any] = []

    def callback(results: Any, mark: Any, error: str) -> None:
        answers.append((results[0].shape, mark, error))
        done.set()

    with capture() as captured:
        ours.run_async(None, {"x": X}, callback, "mark")
        assert done.wait(10)
    assert answers == [((2, 3), "mark", "")]
    assert captured.span(RUN).attributes["aiobs.model.inputs"] == "x[2,4]"


def test_a_wrong_input_raises_what_it_raises_without_us() -> None:
    ours = session()
    with pytest.raises(Exception) as without:
        ours.run(None, {"x": np.ones((2, 5), np.float32)})
    with capture() as captured, pytest.raises(type(without.value)) as with_us:
        ours.run(None, {"x": np.ones((2, 5), np.float32)})
    assert str(with_us.value) == str(without.value)
    run = captured.span(RUN)
    assert run.status == 2
    assert run.attributes["aiobs.model.inputs"] == "x[2,5]"


def test_a_request_of_many_runs_has_few_spans_and_counts_all() -> None:
    ours = session()
    with capture() as captured:
        request = ServerRequest.begin("POST /decode", {}, {}.get, "")
        for _ in range(200):
            ours.run(None, {"x": X})
        request.end()
    served = captured.span("POST /decode")
    assert len(captured.children(served)) == 64
    assert served.attributes["aiobs.model.calls"] == 200
    assert served.attributes["aiobs.model.calls.duration"] > 0


def test_everything_is_put_back() -> None:
    kind = onnxruntime.InferenceSession
    before = [getattr(kind, name) for name in ("run", "run_async", "run_with_iobinding", "run_with_ort_values")]
    signature = inspect.signature(kind.run)
    with capture():
        assert "onnxruntime" in patches.active()
        assert kind.run is not before[0]
        assert inspect.signature(kind.run) == signature
    assert [getattr(kind, name) for name in ("run", "run_async", "run_with_iobinding", "run_with_ort_values")] == before
