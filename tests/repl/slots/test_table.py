"""What a process may write: the slots that it holds and, of memory streams, only while trusted."""

import pytest
import trio

from hs.core.errors import NotOwner
from hs.repl.slots.assignment import slot_of
from hs.repl.slots.table import SlotTable

ROOM = "!a:x"
CONFIGURED = {"events": ("p1", "p2"), "typing": ("p1", "p2")}


def holding_all() -> SlotTable:
    """Return the table of a process that holds all slots."""
    table = SlotTable("p1", CONFIGURED, {"typing"})
    for stream in CONFIGURED:
        for slot in range(256):
            table.note(stream, slot, "p1", 1)
        table.hold(stream, range(256))
    return table


async def test_keys_of_memory_streams_are_written_only_for_a_time_after_a_sign_of_life(
    autojump_clock: object,
) -> None:
    table = holding_all()
    table.trusted_until = trio.current_time() + 5

    before = [table.holds(stream, ROOM) for stream in CONFIGURED]
    await trio.sleep(6)

    assert before == [True, True]
    assert [table.holds(stream, ROOM) for stream in CONFIGURED] == [True, False]
    assert not table.may_finish("typing", ROOM)
    with pytest.raises(NotOwner), table.calling("typing", (ROOM,)):
        raise AssertionError("the call runs")


async def test_slots_that_leave_are_finished_but_take_no_calls() -> None:
    table, slot = holding_all(), slot_of(ROOM)

    table.begin_leaving("typing", [slot])
    leaving = table.holds("typing", ROOM), table.may_finish("typing", ROOM)
    table.note("typing", slot, "p2", 2)
    table.end_leaving("typing", [slot])

    assert leaving == (False, True)
    assert not table.may_finish("typing", ROOM)


async def test_slots_stay_busy_until_what_was_published_is_stored() -> None:
    table, unsaved = holding_all(), {ROOM}
    table.unsaved["typing"] = lambda matches: any(map(matches, unsaved))
    slot = slot_of(ROOM)

    with table.calling("typing", ("!other:x",)):
        busy = [table.is_busy("typing", slots) for slots in ([slot], [slot_of("!other:x")])]
    unsaved.clear()

    assert busy == [True, True]
    assert not table.is_busy("typing", range(256))


async def test_listeners_hear_from_which_processes_slots_passed_on() -> None:
    table, departed = holding_all(), list[tuple[str, str]]()
    table.on_departed.append(lambda name: departed.append((name, table.holder("events", ROOM))))

    table.note("events", slot_of(ROOM), "p2", 2)
    table.note("events", slot_of(ROOM), "p3", 2)

    assert departed == [("p1", "p2")]


async def test_process_that_is_taken_for_dead_drops_also_what_it_was_giving_away() -> None:
    table, dropped = holding_all(), set[str]()
    table.on_lost.append(lambda stream, matches: dropped.add(stream) if matches(ROOM) else None)
    table.begin_leaving("typing", range(256))

    table.lose_all()

    assert dropped == {"events", "typing"}
    assert not table.may_finish("typing", ROOM)
