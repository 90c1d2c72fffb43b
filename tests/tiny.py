"""Tiny models with random weights and a tokenizer of their own, written as ordinary checkpoints."""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoConfig, AutoModel, PreTrainedTokenizerFast

VOCABULARY = 120
POSITIONS = 130  # RoBERTa and MPNet lose two of them
WORDS = [f"w{i}" for i in range(VOCABULARY - 5)]

_COMMON: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "max_position_embeddings": POSITIONS,
    "pad_token_id": 1,
}
TINY: dict[str, dict[str, Any]] = {
    "bert": {},
    "distilbert": {"dim": 64, "n_layers": 2, "n_heads": 4, "hidden_dim": 96},
    "roberta": {},
    "modernbert": {
        "local_attention": 16,
        "global_attn_every_n_layers": 2,
        "num_hidden_layers": 4,
        "cls_token_id": 2,
        "sep_token_id": 3,
        "bos_token_id": 2,
        "eos_token_id": 3,
    },
    "mpnet": {},
}
PACKABLE = ("bert", "distilbert", "roberta", "modernbert")


def save_tiny(model_type: str, folder: Path) -> Path:
    """Write a random model of this type, with weights large enough that mistakes show."""
    torch.manual_seed(0)
    model = AutoModel.from_config(AutoConfig.for_model(model_type, **{**_COMMON, **TINY[model_type]}))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim > 1 and "embeddings" not in name:
                weight.mul_(4)
    model.save_pretrained(folder)
    save_tokenizer(folder)
    return folder


def save_tokenizer(folder: Path) -> None:
    """Words `w0` to `w114`, each one token, between [CLS] and [SEP]; padding and truncation baked in, as a trap."""
    special = ["[UNK]", "[PAD]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(special + WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.enable_padding(pad_id=1, pad_token="[PAD]", length=16)
    tokenizer.enable_truncation(12)
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )
    wrapped.save_pretrained(folder)
