"""The guards of golden answers and of checkpoints: what must not be served."""

from tests.controls.guard import Guard

GOLDEN = "inference/golden.py"
LOADING = "inference/loading.py"
CHECKPOINT = "inference/checkpoint.py"
OF_GOLDEN = "tests/inference/test_golden.py::"
OF_ENGINE = "tests/inference/test_engine.py::"
OF_CHECKPOINT = "tests/inference/test_checkpoint.py::"

GUARDS = (
    Guard(
        "a model whose answers drift is not served",
        LOADING,
        "if known is not None:",
        "if False:",
        f"{OF_ENGINE}test_a_revision_whose_answers_drift_is_not_served",
    ),
    Guard(
        "an answer that is no number has drifted",
        GOLDEN,
        'return float("inf") if np.isnan(beyond) else beyond',
        "return beyond",
        f"{OF_GOLDEN}test_what_is_no_number_has_drifted_most",
    ),
    Guard(
        "an answer that is not finite is not recorded",
        GOLDEN,
        "if not np.isfinite(row).all():",
        "if False:",
        f"{OF_GOLDEN}test_an_answer_that_is_not_finite_is_not_recorded",
    ),
    Guard(
        "parts in another order are not run",
        CHECKPOINT,
        "if parts and not _ORDERS.fullmatch(order):",
        "if False:",
        f"{OF_CHECKPOINT}test_parts_in_another_order_are_refused[order0]",
    ),
    Guard(
        "a part's setting that would be left out is refused",
        CHECKPOINT,
        "if value is not None and value != known.get(key) and",
        "if False and",
        f"{OF_CHECKPOINT}test_term_weights_of_another_kind_are_refused[config0-pooling_strategy 'sum']",
    ),
)
