"""Calls with KServe's own client; run in an environment of its own, prints what came back as JSON."""

import asyncio
import json
import sys
from typing import Any

import httpx
import numpy as np
from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig
from kserve.protocol.infer_type import RequestedOutput

MODEL = "tiny"
TEXTS = ["w0", "w1 w1"]


def request(*, binary: bool, **more: Any) -> InferRequest:
    text = InferInput("input-0", [2], "BYTES")
    text.set_data_from_numpy(np.array(TEXTS, object), binary_data=binary)
    return InferRequest(MODEL, [text], **more)


async def calls(url: str) -> dict[str, Any]:
    client = InferenceRESTClient(RESTConfig(protocol="v2"))

    async def vectors(asked: InferRequest) -> list:
        answer = await client.infer(url, asked, MODEL)
        return answer.outputs[0].as_numpy().tolist()

    async def failure(asked: InferRequest, model: str) -> str:
        try:
            await client.infer(url, asked, model)
        except httpx.HTTPStatusError as error:
            return str(error)
        return ""

    in_bytes = {"parameters": {"binary_data_output": True}}
    wanted = {"request_outputs": [RequestedOutput("embedding", {"binary_data": True})]}
    named = await client.infer(url, request(binary=True, request_id="mine"), MODEL)
    return {
        "json": await vectors(request(binary=False)),
        "bytes": await vectors(request(binary=True)),
        "bytes out": await vectors(request(binary=True, **in_bytes)),
        "output in bytes": await vectors(request(binary=True, **wanted)),
        "dict": (
            await client.infer(
                url,
                {"inputs": [{"name": "text", "shape": [2], "datatype": "BYTES", "data": TEXTS}]},
                model_name=MODEL,
            )
        )
        .outputs[0]
        .as_numpy()
        .tolist(),
        "id": named.id,
        "live": await client.is_server_live(url),
        "ready": await client.is_server_ready(url),
        "model ready": await client.is_model_ready(url, MODEL),
        "unknown model": await failure(request(binary=True), "nobody"),
        "unknown parameter": await failure(request(binary=True, parameters={"zzz": 1}), MODEL),
    }


if __name__ == "__main__":
    print(json.dumps(asyncio.run(calls(sys.argv[1]))))
