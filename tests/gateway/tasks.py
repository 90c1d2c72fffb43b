"""The fake engine with models of every task: their rows are random, and the same for the same tokens."""

from dataclasses import replace

import numpy as np

from inference import TokenizerFile
from inference.request import Batch, Output, Row
from inference.task import Task, abilities
from tests.fakes import Answer
from tests.gateway.fakes import MAX_LENGTH, MODEL, VOCABULARY, FakeDevice, FakeEngine, served, tokenizer_json, vector

MASK = "w9"
MASK_ID = 13
LABELS = {
    "classify": ("bad", "so so", "good"),
    "token-classify": ("O", "B-PER", "I-PER"),
    "rerank": ("LABEL_0",),
}


class TaskEngine(FakeEngine):
    """One model of this task, called `tiny`."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.device = TaskDevice(task)
        self._task = task

    def load(self) -> None:
        super().load()
        labels = LABELS.get(self._task, ())
        tokenizer = TokenizerFile(tokenizer_json(), MAX_LENGTH, mask=MASK)
        can = abilities(self._task, labels)
        model = replace(served(), task=self._task, abilities=can, labels=labels, tokenizer=tokenizer)
        self.models = {model.name: model}


class TaskDevice(FakeDevice):
    """A runtime that answers what is asked for."""

    def __init__(self, task: Task) -> None:
        super().__init__({MODEL: task})
        self._labels = len(LABELS.get(task, ()))

    def launch(self, batch: Batch) -> Answer:
        super().launch(batch)
        return Answer([self.row(entry.request.tokens.tolist(), entry.request.output) for entry in batch.entries])

    def row(self, ids: list[int], output: Output) -> Row:
        """What it makes of these token ids."""
        shapes = {
            "logits": (self._labels,),
            "token logits": (len(ids), self._labels),
            "mask logits": (ids.count(MASK_ID), VOCABULARY),
            "term weights": (VOCABULARY,),
        }
        if output not in shapes:
            return vector(ids)
        return np.random.default_rng([len(ids), *ids]).standard_normal(shapes[output]).astype(np.float32)
