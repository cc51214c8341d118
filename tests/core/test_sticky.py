"""The field that makes an event sticky, and until when it does."""

from typing import Any

import pytest

from hs.core.errors import InvalidParam
from hs.core.events.build import EventDraft, GraphPosition, build_event
from hs.core.events.event import STICKY_KEY, Event, load_event
from hs.core.events.format import parse_pdu
from hs.core.events.hashes import has_valid_content_hash
from hs.core.events.redaction import redact
from hs.core.events.signatures import check_event_signature
from hs.core.events.sticky import MAX_STICKY_MS, check_sticky_duration, sticky_until
from hs.core.ids import EventID, RoomID
from hs.core.versions import ROOM_VERSIONS
from tests.core.room_builder import ALICE, SIGNER

SENT_MS = 1_700_000_000_000
KEYS = {SIGNER.key.key_id: SIGNER.key.verify_key}


def build(sticky_ms: int | None, version: str = "11") -> Event:
    rules = ROOM_VERSIONS[version]
    place = GraphPosition(
        room_id=RoomID("!room:one.example"),
        prev_events=[],
        auth_events=[],
        depth=5,
        origin_server_ts=SENT_MS,
        event_id=None if rules.event_id_is_hash else EventID("$1:one.example"),
    )
    return build_event(EventDraft("m.x", ALICE, {}, sticky_ms=sticky_ms), place, rules, SIGNER)


def received(sticky: Any) -> Event:
    return parse_pdu({**build(None).pdu, STICKY_KEY: sticky}, ROOM_VERSIONS["11"])


@pytest.mark.parametrize("version", ["1", "6", "11"])
def test_field_is_hashed_and_signed_and_lost_by_redaction(version: str) -> None:
    event = build(60_000, version)
    stored = load_event(event.event_id, event.canonical, event.rules)
    changed = parse_pdu({**event.pdu, STICKY_KEY: {"duration_ms": 60_001}}, event.rules)

    assert event.pdu[STICKY_KEY] == {"duration_ms": 60_000}
    assert sticky_until(stored, SENT_MS) == SENT_MS + 60_000
    assert has_valid_content_hash(event)
    assert not has_valid_content_hash(changed)
    redacted = redact(stored)
    assert STICKY_KEY not in redacted.pdu
    assert sticky_until(redacted, SENT_MS) == 0
    assert redacted.event_id == event.event_id
    check_event_signature(redacted, SIGNER.server_name, KEYS)


def test_event_without_duration_is_not_sticky() -> None:
    event = build(None)

    assert STICKY_KEY not in event.pdu
    assert sticky_until(event, SENT_MS) == 0


@pytest.mark.parametrize(
    "sticky",
    [None, 5, {}, [], {"duration_ms": "5"}, {"duration_ms": True}, {"duration_ms": -1}],
)
def test_malformed_fields_make_no_event_sticky(sticky: Any) -> None:
    assert sticky_until(received(sticky), SENT_MS) == 0


def test_time_is_limited_and_begins_when_the_event_is_received_at_the_latest() -> None:
    event = received({"duration_ms": 10 * MAX_STICKY_MS, "more": 1})

    assert sticky_until(event, SENT_MS + 5) == SENT_MS + MAX_STICKY_MS
    assert sticky_until(event, SENT_MS - 5) == SENT_MS - 5 + MAX_STICKY_MS


@pytest.mark.parametrize("duration_ms", [None, 0, 1, MAX_STICKY_MS])
def test_durations_up_to_an_hour_are_allowed(duration_ms: int | None) -> None:
    check_sticky_duration(duration_ms)


@pytest.mark.parametrize("duration_ms", [-1, MAX_STICKY_MS + 1])
def test_other_durations_are_refused(duration_ms: int) -> None:
    with pytest.raises(InvalidParam, match="sticky_duration_ms"):
        check_sticky_duration(duration_ms)
