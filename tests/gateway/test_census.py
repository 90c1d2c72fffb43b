from gateway.census import Census


def test_it_says_which_limit_is_reached() -> None:
    census = Census[str](most=3, most_each=2)

    told = [census.enter(address) for address in ("a", "a", "a", "b", "c", "a")]

    assert told == [None, None, "address", None, "all", "all"]


def test_who_leaves_makes_room() -> None:
    census = Census[str](most=2, most_each=1)
    census.enter("a")
    census.enter("b")

    census.leave("a")

    assert census.enter("b") == "address"
    assert census.enter("a") is None


def test_of_bodies_that_are_too_much_together_the_largest_goes() -> None:
    census = Census[str](most=9, most_each=9, most_held_bytes=100)

    told = [census.hold("large", "a", 50), census.hold("small", "b", 40), census.hold("large", "a", 61)]

    assert told == [None, None, "large"]


def test_an_address_that_holds_half_of_it_brings_no_more_bodies_and_others_do() -> None:
    census = Census[str](most=9, most_each=9, most_held_bytes=100)
    census.hold("first", "a", 40)

    told = [census.hold("second", "a", 11), census.hold("theirs", "b", 40), census.hold("first", "a", 55)]
    census.release("first", "a")

    assert told == ["second", None, None]
    assert census.hold("second", "a", 11) is None


def test_bodies_that_are_whole_are_not_counted_any_longer() -> None:
    census = Census[str](most=9, most_each=9, most_held_bytes=100)
    census.hold("large", "a", 50)
    census.release("large", "a")
    census.release("large", "a")

    assert census.hold("small", "a", 50) is None
