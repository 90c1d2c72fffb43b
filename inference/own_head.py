"""A model's own head, run apart from the model."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from inference.errors import RuntimeFailed


class _Given(BaseModelOutput):
    """Hidden states in the place of a model's own; all else that a head may look for is None."""

    def __getattr__(self, name: str) -> None:
        if name.startswith("_"):
            raise AttributeError(name)


class _Reached(Exception):
    """Ends a forward before one of its layers."""

    def __init__(self, states: torch.Tensor) -> None:
        super().__init__()
        self.states = states


class OwnHead:
    """The model's own head, run on hidden states that are computed already: [sequences, length, hidden] to logits."""

    def __init__(self, model: PreTrainedModel) -> None:
        """Take a loaded model; its forwards are as before but while `__call__` runs."""
        self._model = model
        self._given: torch.Tensor | None = None
        trunk = _trunk(model)
        forward = trunk.forward
        trunk.forward = lambda *args, **kwargs: self._answer(forward, args, kwargs)

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return the logits that the model makes of these hidden states, float32."""
        ids = torch.full(hidden.shape[:2], self._some_id(), device=hidden.device)
        self._given = hidden
        try:
            logits: torch.Tensor = self._model(input_ids=ids, return_dict=True).logits
        finally:
            self._given = None
        return logits.float()

    def each(self, states: torch.Tensor) -> torch.Tensor:
        """Run a head that works token by token: [tokens, hidden] to [tokens, labels]."""
        return self(states[:, None])[:, 0]

    def output_layer(self) -> torch.nn.Linear | None:
        """Return the layer that scores the vocabulary, if the model names one."""
        layer = self._model.get_output_embeddings()  # type: ignore[no-untyped-call]
        return layer if type(layer) is torch.nn.Linear else None

    def before(self, layer: torch.nn.Module, hidden: torch.Tensor) -> torch.Tensor:
        """Return what this layer of the head would read."""

        def reach(layer: torch.nn.Module, given: tuple[torch.Tensor]) -> None:
            raise _Reached(given[0])

        hook = layer.register_forward_pre_hook(reach)
        try:
            self(hidden)
        except _Reached as reached:
            return reached.states
        finally:
            hook.remove()
        raise RuntimeFailed("its output layer is not run")

    def _answer(self, forward: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        return forward(*args, **kwargs) if self._given is None else _Given(last_hidden_state=self._given)

    def _some_id(self) -> int:
        """Return an id that is not the padding's: heads that read the last token look for it by that."""
        return 1 if self._model.config.pad_token_id == 0 else 0


def _trunk(model: PreTrainedModel) -> torch.nn.Module:
    """Return the part whose output the rest of the model reads: a base that pools by itself is entered below that."""
    base: torch.nn.Module = model.base_model
    encoder = getattr(base, "encoder", None)
    pools = getattr(base, "pooler", None) is not None
    return encoder if pools and isinstance(encoder, torch.nn.Module) else base
