"""Calls with Triton's own gRPC client, sync and aio; run in an environment of its own, prints results as JSON."""

import asyncio
import json
import queue
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import tritonclient.grpc as sync
from tritonclient.grpc import aio
from tritonclient.utils import InferenceServerException

MODEL = "tiny"
TEXTS = np.array([b"w0", b"w1 w1"], object)


def text() -> sync.InferInput:
    made = sync.InferInput("text", [2], "BYTES")
    made.set_data_from_numpy(TEXTS)
    return made


def token_ids() -> list[sync.InferInput]:
    rows = {"input_ids": [[2, 4, 3, 0, 0], [2, 5, 5, 3, 0]], "attention_mask": [[1, 1, 1, 0, 0], [1, 1, 1, 1, 0]]}
    inputs = [sync.InferInput(name, [2, 5], "INT64") for name in rows]
    for one, ids in zip(inputs, rows.values(), strict=True):
        one.set_data_from_numpy(np.array(ids, np.int64))
    return inputs


def vectors(result: Any) -> list[list[float]]:
    return result.as_numpy("embedding").tolist()


def failure(call: Callable[[], object]) -> dict[str, str | None]:
    try:
        call()
    except InferenceServerException as error:
        return {"status": error.status(), "message": error.message()}
    return {}


def embed(url: str) -> dict[str, Any]:
    with sync.InferenceServerClient(url) as client:
        answered: queue.Queue[Any] = queue.Queue()
        client.async_infer(MODEL, [text()], lambda result, error: answered.put((result, error)))
        asynchronous, error = answered.get(timeout=60)
        wanted = [sync.InferRequestedOutput("embedding")]
        return {
            "raw": vectors(client.infer(MODEL, [text()])),
            "wanted": vectors(client.infer(MODEL, [text()], outputs=wanted)),
            "version": vectors(client.infer(MODEL, [text()], model_version="1")),
            "token ids": vectors(client.infer(MODEL, token_ids())),
            "gzip": vectors(client.infer(MODEL, [text()], compression_algorithm="gzip")),
            "deflate": vectors(client.infer(MODEL, [text()], compression_algorithm="deflate")),
            "asynchronous": vectors(asynchronous) if error is None else str(error),
            "terms": vectors(client.infer(MODEL, [text()], priority=1, timeout=5_000_000, client_timeout=30)),
            "id": client.infer(MODEL, [text()], request_id="mine").get_response().id,
            "dimensions": vectors(client.infer(MODEL, [text()], parameters={"dimensions": 3})),
        }


def stream(url: str) -> dict[str, Any]:
    told: queue.Queue[Any] = queue.Queue()
    with sync.InferenceServerClient(url) as client:
        client.start_stream(lambda result, error: told.put((result, error)))
        for number in range(4):
            client.async_stream_infer(MODEL, [text()], request_id=str(number))
        client.async_stream_infer(MODEL, [text()], parameters={"dimensions": 0})
        answers = [told.get(timeout=60) for _ in range(5)]
        client.stop_stream()
    return {
        "ids": [result.get_response().id for result, error in answers if error is None],
        "rows": [vectors(result) for result, error in answers if error is None],
        "errors": [error.message() for _, error in answers if error is not None],
    }


def look(url: str) -> dict[str, Any]:
    with sync.InferenceServerClient(url) as client:
        client.infer(MODEL, [text()])
        return {
            "live": client.is_server_live(),
            "ready": client.is_server_ready(),
            "model ready": [client.is_model_ready(MODEL, version) for version in ("", "1", "2")],
            "unknown ready": client.is_model_ready("nobody"),
            "server": client.get_server_metadata(as_json=True),
            "metadata": client.get_model_metadata(MODEL, as_json=True),
            "config": client.get_model_config(MODEL, as_json=True)["config"],
            "index": client.get_model_repository_index(as_json=True)["models"],
            "statistics": client.get_inference_statistics(as_json=True),
            "model statistics": client.get_inference_statistics(MODEL, "1", as_json=True),
        }


def fail(url: str) -> dict[str, Any]:
    with sync.InferenceServerClient(url) as client:
        wrong = sync.InferInput("text", [1], "FP32")
        wrong.set_data_from_numpy(np.zeros(1, np.float32))
        absent = [sync.InferRequestedOutput("nothing")]
        return {
            "datatype": failure(lambda: client.infer(MODEL, [wrong])),
            "model": failure(lambda: client.infer("nobody", [text()])),
            "version": failure(lambda: client.infer(MODEL, [text()], model_version="2")),
            "output": failure(lambda: client.infer(MODEL, [text()], outputs=absent)),
            "sequence": failure(lambda: client.infer(MODEL, [text()], sequence_id=5)),
            "load": failure(lambda: client.load_model(MODEL)),
            "unload": failure(lambda: client.unload_model(MODEL)),
            "system memory": failure(client.get_system_shared_memory_status),
            "cuda memory": failure(lambda: client.unregister_cuda_shared_memory("r")),
            "trace": failure(client.get_trace_settings),
            "log": failure(lambda: client.update_log_settings({"log_info": False})),
        }


def embed_aio(url: str) -> dict[str, Any]:
    async def calls() -> dict[str, Any]:
        async with aio.InferenceServerClient(url) as client:
            many = await asyncio.gather(*(client.infer(MODEL, [text()]) for _ in range(8)))
            told = {
                "many": [vectors(one) for one in many],
                "ready": await client.is_server_ready() and await client.is_model_ready(MODEL),
                "metadata": await client.get_model_metadata(MODEL, as_json=True),
            }
            try:
                await client.infer("nobody", [text()])
            except InferenceServerException as error:
                told["model"] = {"status": error.status(), "message": error.message()}
            return told

    return asyncio.run(calls())


def classify(url: str) -> dict[str, Any]:
    with sync.InferenceServerClient(url) as client:
        result = client.infer(MODEL, [text()])
        best = client.infer(MODEL, [text()], outputs=[sync.InferRequestedOutput("score", class_count=1)])
        return {
            "score": result.as_numpy("score").tolist(),
            "label": [label.decode() for label in result.as_numpy("label")],
            "classes": [row[0].decode() for row in best.as_numpy("score")],
        }


if __name__ == "__main__":
    print(json.dumps(globals()[sys.argv[1]](sys.argv[2])))
