import pytest

from inference.errors import CannotServe
from inference.task import Task, abilities, find_task, labels, problem_type


def config(architecture: str, **more: object) -> dict[str, object]:
    return {"architectures": [architecture], **more}


@pytest.mark.parametrize(
    ("found", "task"),
    [
        (config("BertModel"), "embed"),
        ({}, "embed"),
        (config("BertForSequenceClassification", id2label={"0": "a", "1": "b"}), "classify"),
        (config("BertForSequenceClassification", id2label={"0": "LABEL_0"}), "rerank"),
        (config("BertForSequenceClassification", id2label={"0": "x"}, problem_type="regression"), "classify"),
        (config("RobertaForTokenClassification"), "token-classify"),
        (config("ModernBertForMaskedLM"), "fill-mask"),
    ],
)
def test_the_architecture_says_what_a_model_is_for(found: dict[str, object], task: Task) -> None:
    assert find_task("m", found, [], None) == task


@pytest.mark.parametrize(
    ("parts", "task"), [(["Transformer", "Pooling"], "embed"), (["MLMTransformer", "SpladePooling"], "sparse")]
)
def test_sentence_transformers_parts_say_it_first(parts: list[str], task: Task) -> None:
    assert find_task("m", config("BertForMaskedLM"), parts, None) == task


def test_parts_that_say_nothing_leave_it_to_the_architecture() -> None:
    found = config("BertForSequenceClassification", id2label={"0": "LABEL_0"})

    assert find_task("m", found, ["Transformer"], None) == "rerank"


@pytest.mark.parametrize(
    ("architecture", "wanted"),
    [("BertForMaskedLM", "sparse"), ("Qwen3ForCausalLM", "rerank"), ("Qwen3ForCausalLM", "embed")],
)
def test_another_task_that_the_architecture_can_do_is_taken_as_told(architecture: str, wanted: Task) -> None:
    assert find_task("m", config(architecture), [], wanted) == wanted


@pytest.mark.parametrize(
    ("architecture", "wanted", "named"),
    [
        ("BertModel", "rerank", "it can: embed"),
        ("BertForTokenClassification", "classify", "it can: token-classify"),
        ("BertForQuestionAnswering", None, "BertForQuestionAnswering"),
        ("T5ForConditionalGeneration", None, "T5ForConditionalGeneration"),
        ("Qwen3ForCausalLM", None, "--task m=rerank"),
    ],
)
def test_what_a_model_cannot_do_is_refused_with_what_it_can(architecture: str, wanted: Task | None, named: str) -> None:
    with pytest.raises(CannotServe, match=named):
        find_task("m", config(architecture), [], wanted)


def test_labels_come_in_the_order_of_the_logits() -> None:
    assert labels({"id2label": {"10": "k", "2": "c", "0": "a"}}) == ("a", "c", "k")
    assert labels({"num_labels": 3}) == ("LABEL_0", "LABEL_1", "LABEL_2")


def test_a_label_key_that_is_no_number_is_refused() -> None:
    with pytest.raises(CannotServe, match="id2label"):
        labels({"id2label": {"first": "a"}})


def test_one_label_is_read_by_itself() -> None:
    assert problem_type({"id2label": {"0": "x"}}) == "multi_label_classification"
    assert problem_type({"num_labels": 3}) == "single_label_classification"
    assert problem_type({"num_labels": 3, "problem_type": "regression"}) == "regression"


def test_only_labels_that_entail_make_a_zero_shot_classifier() -> None:
    assert "zero-shot" in abilities("classify", ("contradiction", "neutral", "ENTAILMENT"))
    assert "zero-shot" not in abilities("classify", ("positive", "negative"))
    assert "zero-shot" in abilities("rerank", ("LABEL_0",))
