"""What clients were told that is done: the promises that the invariants compare with the rest."""

import attrs


@attrs.frozen
class SentEvent:
    """An acknowledged event; `order` counts those of one sender in a room."""

    event_id: str
    room_id: str
    sender: str
    text: str


@attrs.frozen
class StateRead:
    """A topic that was read after a change of it was acknowledged."""

    room_id: str
    acknowledged: str
    topic: str | None
    place: str


@attrs.define(eq=False)
class Ledger:
    """All promises.

    `bans` has the time since which a user is banned from a room and the pardon has not been asked
    for. `changes` has the time at which the last acknowledged change of devices was asked for.
    """

    events: list[SentEvent] = attrs.Factory(list)
    topics: dict[str, str] = attrs.Factory(dict)
    reads: list[StateRead] = attrs.Factory(list)
    receipts: dict[tuple[str, str], str] = attrs.Factory(dict)
    account_data: dict[tuple[str, str], int] = attrs.Factory(dict)
    to_device: dict[int, tuple[str, str]] = attrs.Factory(dict)
    bans: dict[tuple[str, str], float] = attrs.Factory(dict)
    changes: dict[str, float] = attrs.Factory(dict)
    rules: dict[str, set[str]] = attrs.Factory(dict)
    names: dict[str, str] = attrs.Factory(dict)
