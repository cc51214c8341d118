"""Frames: what is taken from an outbox is parsed to the same messages, however it is cut."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hs.repl.calls.frames import (
    MAX_FRAME_BYTES,
    BrokenFraming,
    Frame,
    FrameKind,
    FrameParser,
    Outbox,
)

SIZES = st.one_of(st.integers(0, 40), st.integers(MAX_FRAME_BYTES - 1, 3 * MAX_FRAME_BYTES))
KINDS = st.sampled_from([FrameKind.CALL, FrameKind.REPLY])


def bytes_of(outbox: Outbox) -> bytes:
    taken = b""
    while outbox:
        taken += outbox.take()
    return taken


@given(st.lists(st.tuples(KINDS, SIZES), max_size=8), st.lists(st.integers(1, 5000), min_size=1))
def test_messages_arrive_whole(messages: list[tuple[FrameKind, int]], cuts: list[int]) -> None:
    sent = {
        number: Frame(kind, number, bytes([number]) * size)
        for number, (kind, size) in enumerate(messages, 1)
    }
    outbox = Outbox()
    for frame in sent.values():
        outbox.add(FrameKind(frame.kind), frame.id, frame.payload)
    encoded = bytes_of(outbox)
    parser, received, start = FrameParser(), dict[int, Frame](), 0
    while start < len(encoded):
        size = cuts[start % len(cuts)]
        received |= {frame.id: frame for frame in parser.feed(encoded[start : start + size])}
        start += size

    assert received == sent


def test_small_messages_are_sent_amid_a_large_one() -> None:
    outbox = Outbox()
    outbox.add(FrameKind.CALL, 1, bytes(10 * MAX_FRAME_BYTES))
    parser = FrameParser()
    assert parser.feed(outbox.take()) == []

    outbox.add(FrameKind.CALL, 2, b"small")

    assert parser.feed(outbox.take()) == [Frame(FrameKind.CALL, 2, b"small")]


def test_announcement_precedes_what_waits() -> None:
    outbox = Outbox()
    outbox.add(FrameKind.REPLY, 1, b"reply")
    outbox.add_first(FrameKind.POSITIONS, b"positions")

    kinds = [frame.kind for frame in FrameParser().feed(bytes_of(outbox))]

    assert kinds == [FrameKind.POSITIONS, FrameKind.REPLY]


@pytest.mark.parametrize(
    "received",
    [
        b"HTTP/1.1 400 Bad Request\r\n",
        b"\xff\xff\xff\xff\x01" + bytes(8),
        b"\0\0\0\0\0" + bytes(8),
        b"\0\0\0\0\x09" + bytes(8),
        b"\0\0\0\0\x03" + bytes(7) + b"\1" + b"\0\0\0\0\x03" + bytes(7) + b"\2",
    ],
    ids=["http", "size", "kind-0", "kind-9", "mixed-parts"],
)
def test_other_bytes_are_rejected(received: bytes) -> None:
    with pytest.raises(BrokenFraming):
        FrameParser().feed(received)


def test_endless_message_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hs.repl.calls.frames.MAX_MESSAGE_BYTES", 3 * MAX_FRAME_BYTES)
    outbox = Outbox()
    outbox.add(FrameKind.CALL, 1, bytes(5 * MAX_FRAME_BYTES))

    with pytest.raises(BrokenFraming):
        FrameParser().feed(bytes_of(outbox))
