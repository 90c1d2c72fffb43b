"""
Tiny random checkpoints of many architectures, on disk, each with a tokenizer of its own trained in process.

`build(name, head, folder)` is all that tests need. The same call writes the same bytes on the same versions.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from inspect import signature
from pathlib import Path
from typing import Any, Final, Literal

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoModelForTextEncoding,
    AutoModelForTokenClassification,
    PreTrainedTokenizerFast,
)

Head = Literal["base", "SequenceClassification", "TokenClassification", "MaskedLM", "CausalLM"]
Family = Literal["wordpiece", "bytes", "causal"]  # of tokenizers: BERT's, RoBERTa's, Qwen's
ProblemType = Literal["single_label_classification", "multi_label_classification", "regression"]

AUTO: Final[Mapping[Head, Any]] = {
    "base": AutoModel,
    "SequenceClassification": AutoModelForSequenceClassification,
    "TokenClassification": AutoModelForTokenClassification,
    "MaskedLM": AutoModelForMaskedLM,
    "CausalLM": AutoModelForCausalLM,
}
LONGEST: Final = 128  # tokens, by every architecture here
VOCABULARY: Final = 400
_SPECIAL: Final[Mapping[Family, Sequence[str]]] = {  # the places are the ids in _SIZES
    "wordpiece": ("[UNK]", "[PAD]", "[CLS]", "[SEP]", "[MASK]"),
    "bytes": ("<unk>", "<pad>", "<s>", "</s>", "<mask>"),
    "causal": ("<unk>", "<pad>", "<s>", "</s>", "<mask>"),
}
_ROLES: Final = ("unk_token", "pad_token", "cls_token", "sep_token", "mask_token")
_SIZES: Final[Mapping[str, Any]] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "max_position_embeddings": LONGEST + 2,  # RoBERTa and its like lose two
    "pad_token_id": 1,
    "cls_token_id": 2,
    "bos_token_id": 2,
    "sep_token_id": 3,
    "eos_token_id": 3,
    "mask_token_id": 4,
}
_CORPUS: Final = (
    "A headrace is the channel that brings the water to the wheel of a mill.",
    "Where the river is high the water runs over the wheel, and where it is low the wheel stands still.",
    "The miller opened the gate, waited for the wheel to turn, and poured the first sack of grain.",
    "Many small streams meet in one channel; many short calls meet in one batch.",
    "What came first is ground first, but a miller who knows his trade does not stop the stone for one sack.",
    "Le meunier ouvre la vanne à l'aube, et l'eau fait tourner la roue jusqu'à la nuit tombée.",
    "Der Müller öffnet das Wehr früh am Morgen; das Mühlrad dreht sich, solange Wasser fließt.",
    "水车在河边转动、磨坊主把谷物倒进石磨。 Река вращает колесо старой мельницы.",
)

_NO_CAUSAL: Final[tuple[Head, ...]] = ("base", "SequenceClassification", "TokenClassification", "MaskedLM")
_CAUSAL: Final[tuple[Head, ...]] = ("base", "SequenceClassification", "TokenClassification", "CausalLM")
_CAUSAL_SEQUENCES: Final[tuple[Head, ...]] = ("base", "SequenceClassification", "CausalLM")
_GROUPED: Final = {"num_key_value_heads": 2, "head_dim": 16}
_T5: Final = {"d_model": 64, "d_kv": 16, "d_ff": 96, "num_layers": 2, "num_heads": 4, "decoder_start_token_id": 1}
_XLM: Final = {"emb_dim": 64, "n_layers": 2, "n_heads": 4}
_LOCAL: Final = {"local_attention": 16, "global_attn_every_n_layers": 2, "num_hidden_layers": 4}


@dataclass(frozen=True, slots=True)
class Architecture:
    """
    What is particular to one `model_type`: sizes beyond the common ones, its heads, its kind of tokenizer.

    `pads` is False where plain Transformers answers otherwise when a text is padded, whatever the mask says.
    """

    sizes: Mapping[str, Any] = field(default_factory=dict)
    family: Family = "wordpiece"
    heads: tuple[Head, ...] = _NO_CAUSAL
    pads: bool = True
    encoder: Any = AutoModel  # what loads the base


ARCHITECTURES: Final[Mapping[str, Architecture]] = {
    "albert": Architecture({"embedding_size": 32}),
    "bert": Architecture(),
    "big_bird": Architecture({"attention_type": "original_full"}),
    "convbert": Architecture({"embedding_size": 32, "head_ratio": 2}, pads=False),  # convolves over the padding
    "deberta": Architecture({"relative_attention": True, "pos_att_type": ["p2c", "c2p"]}),
    "deberta-v2": Architecture(
        {"relative_attention": True, "position_buckets": 16, "pos_att_type": ["p2c", "c2p"], "share_att_key": True}
    ),
    "distilbert": Architecture({"dim": 64, "n_layers": 2, "n_heads": 4, "hidden_dim": 96}),
    "electra": Architecture({"embedding_size": 32}),
    "ernie": Architecture(),
    "fnet": Architecture(pads=False),  # mixes all positions, and has no mask
    "gte": Architecture(),
    "layoutlm": Architecture(),
    "megatron-bert": Architecture(),
    "mobilebert": Architecture({"embedding_size": 32, "true_hidden_size": 32, "intra_bottleneck_size": 32}),
    "mpnet": Architecture(),
    "nomic_bert": Architecture(),
    "nystromformer": Architecture({"num_landmarks": 8, "segment_means_seq_len": 8}, pads=False),  # means over segments
    "rembert": Architecture({"input_embedding_size": 32, "output_embedding_size": 32}),
    "roformer": Architecture({"embedding_size": 32}),
    "squeezebert": Architecture({"embedding_size": 64}),
    "camembert": Architecture(family="bytes"),
    "data2vec-text": Architecture(family="bytes"),
    "esm": Architecture({"position_embedding_type": "rotary"}, family="bytes"),
    "eurobert": Architecture(_GROUPED, family="bytes"),
    "flaubert": Architecture(_XLM, family="bytes"),
    "ibert": Architecture(family="bytes"),
    "jina_embeddings_v3": Architecture(family="bytes"),
    "longformer": Architecture({"attention_window": 16}, family="bytes"),
    "modernbert": Architecture(_LOCAL, family="bytes"),
    "roberta": Architecture(family="bytes"),
    "roberta-prelayernorm": Architecture(family="bytes"),
    "xlm": Architecture(_XLM, family="bytes"),
    "xlm-roberta": Architecture(family="bytes"),
    "xlm-roberta-xl": Architecture(family="bytes"),
    "xmod": Architecture({"languages": ["en_XX"], "default_language": "en_XX"}, family="bytes"),
    "bart": Architecture(
        {
            "d_model": 64,
            "encoder_layers": 2,
            "decoder_layers": 2,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 4,
            "encoder_ffn_dim": 96,
            "decoder_ffn_dim": 96,
        },
        family="bytes",
        heads=("base", "SequenceClassification"),
    ),
    "mt5": Architecture(_T5, "bytes", ("base", "TokenClassification"), encoder=AutoModelForTextEncoding),
    "t5": Architecture(_T5, "bytes", ("base", "TokenClassification"), encoder=AutoModelForTextEncoding),
    "umt5": Architecture(_T5, "bytes", ("base", "TokenClassification"), encoder=AutoModelForTextEncoding),
    "gemma": Architecture(_GROUPED, "causal", _CAUSAL),
    "gemma2": Architecture({**_GROUPED, "sliding_window": 16}, "causal", _CAUSAL),
    "gemma3_text": Architecture(
        {
            **_GROUPED,
            "use_bidirectional_attention": True,
            "sliding_window": 16,
            "layer_types": ["sliding_attention", "full_attention"],
        },
        "causal",
        _CAUSAL_SEQUENCES,
    ),
    "gpt2": Architecture({"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": LONGEST}, "causal", _CAUSAL),
    "gpt_neox": Architecture({}, "causal", _CAUSAL),
    "llama": Architecture(_GROUPED, "causal", _CAUSAL),
    "mistral": Architecture({**_GROUPED, "sliding_window": 8}, "causal", _CAUSAL),
    "modernbert-decoder": Architecture(_LOCAL, "causal", _CAUSAL_SEQUENCES),
    "olmo2": Architecture(_GROUPED, "causal", _CAUSAL_SEQUENCES),
    "phi3": Architecture(_GROUPED, "causal", _CAUSAL),
    "qwen2": Architecture(_GROUPED, "causal", _CAUSAL),
    "qwen3": Architecture(_GROUPED, "causal", _CAUSAL),
    "smollm3": Architecture(_GROUPED, "causal", _CAUSAL),
}


def loader(name: str, head: Head) -> Any:
    """Return the auto-class whose `from_pretrained` loads such a checkpoint."""
    return ARCHITECTURES[name].encoder if head == "base" else AUTO[head]


def build(
    name: str,
    head: Head,
    folder: Path,
    *,
    labels: Sequence[str] = ("A", "B", "C"),
    problem_type: ProblemType | None = None,
) -> Path:
    """Write a checkpoint into `folder/NAME-HEAD` and return that; labels and problem type count for classifiers."""
    architecture = ARCHITECTURES[name]
    config = AutoConfig.for_model(name, **{**_SIZES, **architecture.sizes})
    if head.endswith("Classification"):
        config.id2label = dict(enumerate(labels))
        config.label2id = {label: i for i, label in enumerate(labels)}
        config.problem_type = problem_type
    target = folder / f"{name}-{head}"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = loader(name, head).from_config(config)
        _sharpen(model)
    model.save_pretrained(target)
    names = ["input_ids", "attention_mask"]
    if architecture.family == "wordpiece" and "token_type_ids" in signature(model.forward).parameters:
        names.insert(1, "token_type_ids")
    _wrapped(architecture.family, names).save_pretrained(target)
    return target


@torch.no_grad()
def _sharpen(model: torch.nn.Module) -> None:
    """Make weights large and biases and norms uneven, so that a mistake in any of them shows."""
    for name, weight in model.named_parameters():
        if weight.ndim == 1:
            weight.add_(torch.randn_like(weight), alpha=0.1)
        elif "embed" not in name and weight.std() < 0.1:
            weight.mul_(4)


def _wrapped(family: Family, input_names: Sequence[str]) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_trained(family)),
        model_input_names=list(input_names),
        model_max_length=LONGEST,
        bos_token=_SPECIAL[family][2],
        eos_token=_SPECIAL[family][3],
        **dict(zip(_ROLES, _SPECIAL[family], strict=True)),
    )


@cache
def _trained(family: Family) -> str:
    """Return the JSON of a tokenizer that frames texts and pairs as this family does."""
    tokenizer = _wordpiece() if family == "wordpiece" else _byte_pairs(_SPECIAL[family])
    _, _, start, end, _ = _SPECIAL[family]
    single, pair = {
        "wordpiece": (f"{start} $A {end}", f"{start} $A {end} $B:1 {end}:1"),
        "bytes": (f"{start} $A {end}", f"{start} $A {end} {end} $B {end}"),
        "causal": (f"$A {end}", f"$A $B {end}"),
    }[family]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=single, pair=pair, special_tokens=[(start, 2), (end, 3)]
    )
    return tokenizer.to_str()


def _wordpiece() -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    special = list(_SPECIAL["wordpiece"])
    trainer = trainers.WordPieceTrainer(vocab_size=VOCABULARY, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(_CORPUS, trainer)
    return tokenizer


def _byte_pairs(special: Sequence[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=list(special), initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(_CORPUS, trainer)
    return tokenizer
