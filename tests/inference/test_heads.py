import pytest
import torch
from transformers import BertConfig, BertForMaskedLM, PreTrainedModel

from inference.checkpoint import Pooling
from inference.heads import AllTerms, Pooled, SlicedTerms, term_weights
from inference.layout import lay_out
from inference.own_head import OwnHead

HIDDEN = torch.tensor([[1.0, 0.0], [3.0, 4.0], [0.0, 2.0], [6.0, 8.0]])
RUNS = lay_out([1, 3])


@pytest.mark.parametrize(
    ("pooling", "second"),
    [("mean", [3.0, 14 / 3]), ("cls", [3.0, 4.0]), ("max", [6.0, 8.0]), ("last", [6.0, 8.0])],
)
def test_each_sequence_is_pooled_by_itself(pooling: Pooling, second: list[float]) -> None:
    pooled = Pooled(pooling, normalise=False)(HIDDEN, RUNS, []).values

    assert torch.allclose(pooled, torch.tensor([[1.0, 0.0], second]))


def test_normalised_vectors_have_length_one() -> None:
    pooled = Pooled("last", normalise=True)(HIDDEN, RUNS, []).values

    assert torch.allclose(pooled, torch.tensor([[1.0, 0.0], [0.6, 0.8]]))


def test_half_precision_is_summed_in_float32() -> None:
    hidden = torch.full((4096, 1), 0.1, dtype=torch.float16)

    pooled = Pooled("mean", normalise=False)(hidden, lay_out([4096]), []).values

    assert pooled.dtype == torch.float32
    assert float(pooled) == pytest.approx(0.1, rel=1e-3)


def masked_language_model(last: torch.nn.Module | None = None) -> PreTrainedModel:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    model = BertForMaskedLM(BertConfig(vocab_size=1300, **sizes)).eval()
    if last is not None:
        model.cls.predictions.register_forward_hook(lambda module, given, logits: last(logits))
    return model


@pytest.mark.parametrize(("last", "sliced"), [(None, True), (torch.nn.Tanh(), False)])
def test_term_weights_are_those_of_the_formula_whatever_the_portions(
    last: torch.nn.Module | None, sliced: bool
) -> None:
    lengths = [3, 3, *[40] * 30, 700, 5]
    states = [torch.randn(length, 32) for length in lengths]
    own = OwnHead(masked_language_model(last))

    with torch.inference_mode():
        logits = [own(each[None])[0] for each in states]
        head = term_weights(own, states[:2], logits[:2])
        rows = head(torch.cat(states), lay_out(lengths), []).values

    assert isinstance(head.scores, SlicedTerms if sliced else AllTerms)
    expected = torch.stack([torch.log1p(torch.relu(each)).amax(0) for each in logits])
    assert torch.allclose(rows, expected, atol=1e-6)
