import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModel

from inference.errors import RuntimeFailed
from inference.layout import Layout, Run, lay_out
from inference.packing import packed_as, packed_attention, self_test

VALUES = torch.Generator().manual_seed(0)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=30))
def test_runs_cover_every_token_once_in_order(lengths: list[int]) -> None:
    runs = lay_out(lengths).runs

    assert [run.length for run in runs for _ in range(run.count)] == lengths
    assert [run.rows.start for run in runs] == [0, *[run.rows.stop for run in runs][:-1]]


def test_equal_neighbours_share_a_run() -> None:
    assert lay_out([3, 3, 5]).runs == (Run(0, 2, 3), Run(6, 1, 5))


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("window", [None, 3, 20])
@pytest.mark.parametrize("key_heads", [4, 2])
def test_attention_is_what_a_masked_softmax_gives(causal: bool, window: int | None, key_heads: int) -> None:
    lengths = [1, 4, 4, 9]
    total = sum(lengths)
    query = torch.randn(1, 4, total, 8, generator=VALUES)
    key, value = (torch.randn(1, key_heads, total, 8, generator=VALUES) for _ in range(2))
    sequence = torch.tensor(np.repeat(range(4), lengths))
    position = torch.tensor(np.concatenate([range(n) for n in lengths]))
    distance = position[:, None] - position[None, :]
    allowed = sequence[:, None] == sequence[None, :]
    if causal:
        allowed &= distance >= 0
    if window is not None:
        allowed &= distance.abs() < window
    repeated = [x.repeat_interleave(4 // key_heads, 1) for x in (key, value)]
    scores = (query @ repeated[0].transpose(2, 3) * 0.3).masked_fill(~allowed, float("-inf"))
    expected = (scores.softmax(-1) @ repeated[1]).transpose(1, 2)

    with packed_as(lay_out(lengths)):
        got, _ = packed_attention(
            torch.nn.Identity(), query, key, value, None, scaling=0.3, sliding_window=window, is_causal=causal
        )

    assert torch.allclose(got, expected, atol=1e-5)


def test_what_it_cannot_do_is_an_error_and_not_a_wrong_answer() -> None:
    x = torch.zeros(1, 1, 2, 4)

    with packed_as(lay_out([2])), pytest.raises(RuntimeFailed, match="softcap"):
        packed_attention(torch.nn.Identity(), x, x, x, None, softcap=30.0)


def test_what_is_recorded_knows_no_runs_and_must_have_a_kernel() -> None:
    x = torch.zeros(1, 1, 2, 4)

    with packed_as(Layout((), 2)), pytest.raises(RuntimeFailed, match="no kernel"):
        packed_attention(torch.nn.Identity(), x, x, x, None)


def test_the_self_test_catches_a_model_that_mixes_neighbours() -> None:
    config = AutoConfig.for_model("bert", vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
    model = AutoModel.from_config(config)
    rows = torch.arange(50, dtype=torch.float32)

    def alone(tokens: np.ndarray) -> np.ndarray:
        return rows[tokens].mean(0, keepdim=True).numpy()

    def together(sequences: list[np.ndarray]) -> list[np.ndarray]:
        with packed_as(lay_out([len(tokens) for tokens in sequences])):
            x = torch.zeros(1, 1, sum(map(len, sequences)), 4)
            packed_attention(torch.nn.Identity(), x, x, x, None)
        pooled = np.stack([alone(tokens) for tokens in sequences])
        return list(pooled + 0.01 * np.roll(pooled, 1, 0))  # a little of the neighbour

    reason = self_test(model, alone, together, 32)

    assert reason is not None and "differ" in reason
