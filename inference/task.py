"""
What a checkpoint is for, found in its own files, and what may be asked of it.

Words: a task is what a model was made for; an ability is what callers may ask. A reranker can also
classify, an embedder can also tell how similar texts are.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

from inference.errors import CannotServe

Json = Mapping[str, Any]

Task = Literal["embed", "rerank", "classify", "token-classify", "fill-mask", "sparse"]
Ability = Literal["embed", "similarity", "rerank", "classify", "zero-shot", "token-classify", "fill-mask", "sparse"]
ProblemType = Literal["regression", "single_label_classification", "multi_label_classification"]

TASKS: Final[Mapping[Task, tuple[Ability, ...]]] = {
    "embed": ("embed", "similarity"),
    "rerank": ("rerank", "classify", "zero-shot"),
    "classify": ("classify",),
    "token-classify": ("token-classify",),
    "fill-mask": ("fill-mask",),
    "sparse": ("sparse",),
}

_KINDS: Final[Mapping[str, tuple[Task, ...]]] = {  # by the end of the architecture's name: the task, and what else
    "ForSequenceClassification": ("classify", "rerank"),
    "ForTokenClassification": ("token-classify",),
    "ForMaskedLM": ("fill-mask", "sparse", "embed"),
    "WithLMHeadModel": ("fill-mask", "sparse", "embed"),
    "ForCausalLM": ("rerank", "embed"),
    "LMHeadModel": ("rerank", "embed"),
    "Model": ("embed",),
    "": ("embed",),
}
_CAUSAL: Final = ("ForCausalLM", "LMHeadModel")


def find_task(name: str, config: Json, parts: Sequence[str], wanted: Task | None) -> Task:
    """
    Return the task of a model by its architecture and its sentence-transformers parts; raises CannotServe.

    `wanted` overrides where the architecture can do it.
    """
    architecture = architecture_of(config)
    ending = _ending(architecture)
    if ending == "" and re.search("For[A-Z]", architecture):
        raise CannotServe(f"model {name}: {architecture} has no task that this engine serves")
    can = possible_tasks(config)
    by_parts: Task | None = "sparse" if "SpladePooling" in parts else "embed" if "Pooling" in parts else None
    if wanted is not None and wanted not in (*can, by_parts):
        raise CannotServe(f"model {name}: {architecture or 'it'} cannot {wanted}; it can: {', '.join(can)}")
    if wanted == "rerank" and not is_causal(config) and len(labels(config)) != 1:
        raise CannotServe(f"model {name}: a reranker has one label, and this has {len(labels(config))}")
    if told := wanted or by_parts:
        return told
    if is_causal(config):
        raise CannotServe(f"model {name}: {architecture} may embed or rerank: say which, with --task {name}=rerank")
    if ending == "ForSequenceClassification" and len(labels(config)) == 1 and problem_type(config) != "regression":
        return "rerank"
    return can[0]


def possible_tasks(config: Json) -> tuple[Task, ...]:
    """Return what a model of this architecture may be told to do, its usual task first."""
    return _KINDS[_ending(architecture_of(config))]


def architecture_of(config: Json) -> str:
    """Return the class that the weights were saved from; empty if nobody said."""
    return str((config.get("architectures") or [""])[0])


def is_causal(config: Json) -> bool:
    """Whether it is a language model that predicts the next token."""
    return _ending(architecture_of(config)) in _CAUSAL


def _ending(architecture: str) -> str:
    return next(ending for ending in _KINDS if architecture.endswith(ending))


def abilities(task: Task, names: Sequence[str]) -> tuple[Ability, ...]:
    """Return what may be asked of a model with these labels."""
    extra: tuple[Ability, ...] = ()
    if task == "classify" and entailment(names) is not None:
        extra = ("zero-shot",)
    return TASKS[task] + extra


def labels(config: Json) -> tuple[str, ...]:
    """Return the labels in the order of the logits; LABEL_0, LABEL_1, ... where they have no names."""
    named = config.get("id2label")
    if not isinstance(named, dict):
        return tuple(f"LABEL_{index}" for index in range(int(config.get("num_labels") or 2)))
    try:
        return tuple(str(named[key]) for key in sorted(named, key=int))
    except ValueError as err:
        raise CannotServe(f"config.json: id2label has a key that is no number ({err})") from None


def problem_type(config: Json) -> ProblemType:
    """Return how the logits are read, as Transformers decides it."""
    told = config.get("problem_type")
    if told == "regression":
        return "regression"
    by_itself = told == "multi_label_classification" or len(labels(config)) == 1
    return "multi_label_classification" if by_itself else "single_label_classification"


def entailment(names: Sequence[str]) -> int | None:
    """Return which label of a natural-language-inference model means `follows`, if there is one."""
    return next((index for index, label in enumerate(names) if label.lower().startswith("entail")), None)
