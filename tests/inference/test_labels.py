import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from inference.labels import ranked, scores, sigmoid, softmax

LOGITS = arrays(np.float32, st.integers(1, 20), elements=st.floats(-(2.0**90), 2.0**90, width=32))


@given(LOGITS)
def test_probabilities_are_finite_and_sum_to_one_whatever_the_logits(logits: np.ndarray) -> None:
    shares = softmax(logits)

    assert np.isfinite(shares).all()
    assert shares.sum() == pytest.approx(1, abs=1e-5)


@given(LOGITS)
def test_a_sigmoid_is_finite_and_keeps_the_order(logits: np.ndarray) -> None:
    values = sigmoid(logits)

    assert ((values >= 0) & (values <= 1)).all()
    assert (np.diff(values[np.argsort(logits)]) >= 0).all()


def test_a_large_negative_logit_beside_a_positive_one_does_not_overflow() -> None:
    assert softmax(np.float32([-60, 35])).tolist() == pytest.approx([0, 1])


def test_the_problem_type_says_how_logits_are_read() -> None:
    logits = np.float32([0, np.log(3)])

    assert scores(logits, "single_label_classification").tolist() == pytest.approx([0.25, 0.75])
    assert scores(logits, "multi_label_classification").tolist() == pytest.approx([0.5, 0.75])
    assert scores(logits, "regression") is logits


def test_the_best_come_first_and_equals_keep_their_order() -> None:
    assert ranked([0.1, 0.9, 0.1, 0.5]) == [1, 3, 0, 2]
    assert ranked([0.1, 0.9, 0.1, 0.5], 2) == [1, 3]
    assert ranked([0.1], 9) == [0]
