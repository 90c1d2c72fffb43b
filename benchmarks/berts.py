"""
BERTs of three sizes with random weights: what they answer means nothing, and takes as long as if it did.

Their tokenizer knows as many words, one token each, so that a text has as many tokens as a benchmark wants.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

VOCABULARY: Final = 30522
_SPECIAL: Final = ("[UNK]", "[PAD]", "[CLS]", "[SEP]", "[MASK]")


@dataclass(frozen=True, slots=True)
class Size:
    """What a BERT is like."""

    name: str
    width: int
    layers: int
    heads: int

    def flops(self, length: int) -> float:
        """Return the floating-point operations of a text of so many tokens, products alone."""
        products = 24 * self.width**2  # a token: four of width x width, two of width x 4 width, an addition each
        attention = 4 * length * self.width
        return length * self.layers * (products + attention)


SIZES: Final = (
    Size("MiniLM", 384, 6, 12),
    Size("BERT base", 768, 12, 12),
    Size("BERT large", 1024, 24, 16),
)


def save_bert(folder: Path, size: Size) -> Path:
    """Write a checkpoint in float16 with a tokenizer; texts have up to 512 tokens."""
    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=size.width,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        intermediate_size=4 * size.width,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        BertModel(config, add_pooling_layer=False).half().save_pretrained(folder)  # type: ignore[no-untyped-call]
    words = [*_SPECIAL, *(f"w{number}" for number in range(VOCABULARY - len(_SPECIAL)))]
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=512,
    ).save_pretrained(folder)
    return folder
