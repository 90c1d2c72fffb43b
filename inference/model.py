"""A model that is ready to take calls, as everybody but its device sees it."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from inference.checkpoint import Pooling
from inference.request import loaded_as
from inference.task import Ability, ProblemType, Task
from inference.tokenizer import TokenizerFile


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model that is ready: what it is, and how its text becomes tokens."""

    name: str
    task: Task
    abilities: tuple[Ability, ...]
    revision: str | None
    dtype: str
    device: str
    packed: bool
    hidden_size: int  # width of a vector that it answers
    vocab_size: int
    max_length: int  # tokens, special tokens included
    normalised: bool
    tokenizer: TokenizerFile
    load_s: float = 0.0
    warm_up_s: float = 0.0
    causal: bool = False
    labels: tuple[str, ...] = ()
    problem_type: ProblemType = "single_label_classification"
    pooling: Pooling = "mean"
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt: str | None = None
    padded_because: str | None = None  # None: packed
    version: int = 1  # counts the loads of this name

    @property
    def key(self) -> str:
        """What requests to it say: an older version of it may still answer its last calls."""
        return loaded_as(self.name, self.version)
