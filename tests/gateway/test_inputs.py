import pytest

from gateway.errors import HttpFault
from gateway.inputs import read_inputs


@pytest.mark.parametrize(
    ("told", "items", "single"),
    [
        ("a", ["a"], True),
        (["a", "b"], ["a", "b"], False),
        ([1, 2], [[1, 2]], True),
        ([[1], [2]], [[1], [2]], False),
        ([], [], False),
    ],
)
def test_four_forms_are_told_apart(told: object, items: list, single: bool) -> None:
    read = read_inputs(told, "text")

    assert (list(read.items), read.single) == (items, single)
    assert read.name(0) == ("text" if single else "text[0]")


@pytest.mark.parametrize("told", [["a", 1], [1, "a"], [[1], 1], [[1], "a"], ["a", [1]], [1, [1]]])
def test_a_mixture_names_the_odd_one_by_the_callers_own_name(told: list) -> None:
    with pytest.raises(HttpFault) as caught:
        read_inputs(told, "text")

    assert caught.value.field == "text[1]"
