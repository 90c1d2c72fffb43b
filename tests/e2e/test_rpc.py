"""gRPC with the real process: what a stop takes from its callers."""

import re
import signal
import threading
from collections.abc import Callable

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from gateway import open_inference_pb2 as pb
from gateway.kserve_rpc import SERVICE
from tests.e2e.conftest import Headrace

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

LISTENING = re.compile(r"gRPC on (\S+)")
MODEL = "all-MiniLM-L6-v2"
INFER = f"/{SERVICE}/ModelInfer"
TEXTS = [f"{number} " + "The headrace brings the water to the wheel. " * (1 + number % 8) for number in range(24)]


def asked(text: str) -> pb.ModelInferRequest:
    contents = pb.InferTensorContents(bytes_contents=[text.encode()])
    tensor = pb.ModelInferRequest.InferInputTensor(name="text", datatype="BYTES", shape=[1], contents=contents)
    return pb.ModelInferRequest(model_name=MODEL, inputs=[tensor])


class Caller:
    """Calls until it is told to come no more; remembers how each call ended."""

    def __init__(self, channel: grpc.Channel, seed: int) -> None:
        self.answers = 0
        self.ended: grpc.StatusCode | None = None
        self.thread = threading.Thread(target=self._run)
        self._infer = channel.unary_unary(
            INFER, pb.ModelInferRequest.SerializeToString, pb.ModelInferResponse.FromString
        )
        self._seed = seed

    def _run(self) -> None:
        while self.ended is None:
            try:
                answer = self._infer(asked(TEXTS[(self._seed + self.answers) % len(TEXTS)]), timeout=60)
            except grpc.RpcError as error:
                self.ended = error.code()
            else:
                assert list(answer.outputs[0].shape) == [1, 384]
                self.answers += 1


@pytest.mark.usefixtures("minilm_path")
def test_a_stop_under_load_answers_every_call_it_took(start: Callable[..., Headrace]) -> None:
    """Callers never stop by themselves; every call that the server answered has reached its caller."""
    server = start("--grpc-port", "0", "--drain-delay", "1", "--max-batch-tokens", "256")
    server.until(lambda: "ready: listening" in server.said)
    found = LISTENING.search(server.said)
    assert found
    with grpc.insecure_channel(found[1]) as one, grpc.insecure_channel(found[1]) as other:
        callers = [Caller((one, other)[number % 2], number) for number in range(16)]
        health = health_pb2_grpc.HealthStub(one)
        watch = health.Watch(health_pb2.HealthCheckRequest())
        before = next(watch).status
        for caller in callers:
            caller.thread.start()
        server.until(lambda: all(caller.answers for caller in callers))
        server.signal(signal.SIGTERM)
        after = next(watch).status
        for caller in callers:
            caller.thread.join()
        code = server.wait()

    assert (before, after) == (health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING)
    assert {caller.ended for caller in callers} == {grpc.StatusCode.UNAVAILABLE}
    assert server.said.count(f"POST {INFER} 200 ") == sum(caller.answers for caller in callers)
    assert code == 0
    assert "Traceback" not in server.said
