"""Who calls, and what they may: values only. Knows neither keys nor HTTP."""

from typing import Annotated, Literal

import msgspec

from inference import Ability

Speech = Literal["cohere", "huggingface", "infinity", "kserve", "openai", "rerank", "tei", "vllm"]
"""A dialect, by the name of its module."""

Share = Annotated[float, msgspec.Meta(gt=0)]
Count = Annotated[int, msgspec.Meta(ge=1)]


class Grant(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What a caller may, as its operator writes it; None: everything, and without a limit."""

    models: frozenset[str] | None = None
    tasks: frozenset[Ability] | None = None
    dialects: frozenset[Speech] | None = None
    max_priority: Annotated[int, msgspec.Meta(ge=-9, le=9)] | None = None  # None: as far as everybody
    admin: bool = False
    requests_per_s: Share | None = None
    tokens_per_s: Share | None = None
    tokens_per_day: Count | None = None  # of UTC
    in_flight: Count | None = None

    @property
    def limited(self) -> bool:
        """Whether anything of it must be counted."""
        return (self.requests_per_s, self.tokens_per_s, self.tokens_per_day, self.in_flight) != (None,) * 4


class Caller(msgspec.Struct, frozen=True):
    """Somebody who has shown who they are: their name, the id of their key, what they may; or their token's subject."""

    name: str
    key: str
    grant: Grant
    subject: str = ""  # of a token, as its issuer writes it

    def may_use(self, model: str) -> bool:
        """Whether a model of this name, served or not, may be asked anything."""
        return self.grant.models is None or model in self.grant.models

    def may_ask(self, ability: Ability) -> bool:
        """Whether models may be asked for this."""
        return self.grant.tasks is None or ability in self.grant.tasks

    def may_speak(self, dialect: str) -> bool:
        """Whether calls may come in this dialect."""
        return self.grant.dialects is None or dialect in self.grant.dialects
