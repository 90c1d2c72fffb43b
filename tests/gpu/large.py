"""Random BERTs of any size, as checkpoints on disk: what they answer means nothing, and takes as long as if it did."""

from pathlib import Path
from typing import Final

import torch
from transformers import BertConfig, BertModel

from tests.tiny import save_tokenizer

VOCABULARY: Final = 30522


def save_bert(folder: Path, *, width: int, layers: int) -> Path:
    """Save one of this width, with heads of 32 numbers and sequences of up to 512 tokens."""
    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=width // 32,
        intermediate_size=4 * width,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    save_tokenizer(folder)
    return folder
