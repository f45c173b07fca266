"""Which connection gives way when they are too many."""

from remotelr_service.server.connection_table import MIN_REST_S, ConnectionTable


class Clock:
    """A clock that a test sets."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def filled(clock: Clock, **counts: int) -> ConnectionTable[str]:
    """A table of ten, with so many connections of each address: a0, a1, … in the order of their arrival."""
    table: ConnectionTable[str] = ConnectionTable(10, clock)
    for address, count in counts.items():
        for number in range(count):
            assert (True, None) == table.add(f"{address}{number}", address)
            clock.now += 0.001
    return table


def test_the_oldest_without_a_request_of_the_largest_address_gives_way():
    table = filled(Clock(), b=3, a=5, c=2)
    table.begin("a0")

    assert [(True, "a1"), (True, "a2"), (True, "b0")] == [table.add(f"d{number}", "d") for number in range(3)]


def test_a_connection_that_was_used_is_not_the_oldest_any_more():
    table = filled(Clock(), a=5, b=5)
    table.begin("a0")
    table.rest("a0")

    assert (True, "a1") == table.add("c0", "c")


def test_an_address_closes_no_connection_of_a_smaller_one():
    table = filled(Clock(), a=5, b=5)
    for number in range(5):
        table.begin(f"a{number}")

    assert (False, None) == table.add("a5", "a")


def test_an_address_with_more_than_half_does_not_get_the_last_tenth():
    table = filled(Clock(), a=9)

    assert (False, None) == table.add("a9", "a")
    assert (True, None) == table.add("b0", "b")


def test_an_address_closes_its_own_connection_after_a_rest():
    clock = Clock()
    table = filled(clock, a=9)
    clock.now = MIN_REST_S + 0.0005

    assert [(True, "a0"), (False, None)] == [table.add("a9", "a"), table.add("a10", "a")]


def test_requests_in_progress_do_not_give_way():
    table = filled(Clock(), a=9, b=1)
    for connection in ("b0", *(f"a{number}" for number in range(9))):
        table.begin(connection)

    assert (False, None) == table.add("c0", "c")


def test_a_closed_connection_makes_room():
    table = filled(Clock(), a=5, b=5)
    for number in range(5):
        table.begin(f"a{number}")
        table.begin(f"b{number}")
    table.remove("b4")
    table.remove("b4")

    assert (True, None) == table.add("c0", "c")


def test_a_refused_connection_takes_no_room_when_it_ends():
    table = filled(Clock(), a=9)
    assert (False, None) == table.add("a9", "a")
    table.begin("a9")
    table.rest("a9")
    table.remove("a9")

    assert [(True, None), (False, None)] == [table.add("b0", "b"), table.add("a10", "a")]


def test_a_limit_of_one_lets_one_in():
    clock = Clock()
    table: ConnectionTable[str] = ConnectionTable(1, clock)

    assert [(True, None), (True, "a0")] == [table.add("a0", "a"), table.add("b0", "b")]
