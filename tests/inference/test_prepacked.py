import pytest
import torch

from inference.prepacked import Prepacked, gain, prepack


class Tied(torch.nn.Module):
    """A small language model: its output layer has the weights of its embeddings."""

    def __init__(self) -> None:
        super().__init__()
        self.embeddings = torch.nn.Embedding(32, 16)
        self.dense = torch.nn.Linear(16, 16)
        self.output = torch.nn.Linear(16, 32)
        self.output.weight = self.embeddings.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.output(self.dense(self.embeddings(ids)))


@pytest.mark.parametrize("shape", [(1, 48), (7, 48), (1, 300, 48), (2, 3, 5, 48)], ids=str)
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize(("dtype", "off"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)], ids=str)
def test_a_prepacked_layer_answers_as_the_layer_does(
    dtype: torch.dtype, off: float, bias: bool, shape: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    linear = torch.nn.Linear(48, 96, bias, dtype=dtype)
    x = torch.randn(shape, dtype=dtype)

    with torch.inference_mode():
        answer, expected = Prepacked(linear)(x), linear(x)

    assert (answer.dtype, answer.shape) == (expected.dtype, expected.shape)
    assert torch.allclose(answer, expected, rtol=off, atol=off)


def test_what_lies_strided_is_read_as_it_should_be() -> None:
    linear = torch.nn.Linear(16, 8)
    x = torch.randn(16, 40).T

    with torch.inference_mode():
        assert torch.allclose(Prepacked(linear)(x), linear(x), atol=1e-5)


def test_the_weight_can_still_be_read() -> None:
    linear = torch.nn.Linear(16, 24)

    packed = Prepacked(linear)

    assert (packed.in_features, packed.out_features) == (16, 24)
    assert torch.equal(packed.weight, linear.weight)


def test_weights_that_two_layers_share_stay_where_they_are() -> None:
    model = Tied().eval()
    ids = torch.arange(5)
    with torch.inference_mode():
        expected = model(ids)

    changed = prepack(model)

    assert (changed, type(model.dense)) == (1, Prepacked)
    assert model.output.weight is model.embeddings.weight
    with torch.inference_mode():
        assert torch.allclose(model(ids), expected, atol=1e-5)


def test_layers_of_another_kind_and_the_one_that_is_named_stay() -> None:
    class Odd(torch.nn.Linear):
        pass

    model = torch.nn.Sequential(torch.nn.Linear(4, 4), Odd(4, 4), torch.nn.Linear(4, 4))

    changed = prepack(model, but=model[2])

    assert changed == 1
    assert [type(layer) for layer in model] == [Prepacked, Odd, torch.nn.Linear]


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64], ids=str)
def test_another_dtype_is_left_alone(dtype: torch.dtype) -> None:
    assert prepack(torch.nn.Sequential(torch.nn.Linear(4, 4, dtype=dtype))) == 0


def test_without_onednn_all_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", False)

    assert prepack(torch.nn.Sequential(torch.nn.Linear(4, 4))) == 0


def test_the_gain_is_that_of_each_ones_best_try() -> None:
    plain, laid = [9.0, 4.0, 5.0, 4.0], [8.0, 2.5, 2.0, 3.0]
    moments = [moment for both in zip(plain, laid, strict=True) for took in both for moment in (0.0, took)]

    assert gain(320, 320, iter(moments).__next__) == 2.0


def test_a_small_layer_is_not_measured() -> None:
    assert gain(64, 64, iter([]).__next__) == 1.0


@pytest.mark.parametrize(("gained", "changed"), [(1.4, 0), (1.6, 1)])
def test_layers_stay_where_it_gains_too_little(monkeypatch: pytest.MonkeyPatch, gained: float, changed: int) -> None:
    asked = []
    monkeypatch.setattr("inference.prepacked.gain", lambda inputs, outputs: asked.append(outputs) or gained)
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 9), but := torch.nn.Linear(9, 99))

    assert prepack(model, but=but, least_gain=1.5) == 2 * changed
    assert asked == [9]


def test_a_layer_that_answers_otherwise_gains_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    forward = Prepacked.forward
    monkeypatch.setattr(Prepacked, "forward", lambda layer, x: forward(layer, x.bfloat16().float()))

    assert gain(320, 320, iter([]).__next__) == 1.0


def test_a_build_without_onednn_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)

    assert prepack(torch.nn.Sequential(torch.nn.Linear(4, 4))) == 0
