"""Envelopes: what others of this server sealed is opened once, everything else is rejected."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hs.repl.envelope import MAX_ENVELOPE_BYTES, Envelopes, InvalidEnvelope, envelope_key
from hs.repl.feed import Batch
from hs.repl.message import encode_message, rows_message
from hs.repl.row_codec import decode_rows
from tests.repl.conftest import NOTES, Note

KEY = envelope_key("secret", "identity")


def envelopes(instance: str, life: int = 1, key: bytes = KEY) -> Envelopes:
    return Envelopes(key, instance, life)


def message(text: str) -> bytes:
    return encode_message(rows_message("w1", Batch(NOTES, "w1", 4, 5, [(5, Note(text))]), 9))


def sealed(sender: Envelopes, text: str = "a") -> bytes:
    (envelope,) = sender.seal([message(text)])
    return envelope


def test_messages_survive_with_rows_still_encoded() -> None:
    batch = Batch(NOTES, "w1", 4, 6, [(5, Note("a")), (6, Note("b", b"\xff"))])
    (envelope,) = envelopes("w1").seal([encode_message(rows_message("w1", batch, 9))] * 2)

    opened = envelopes("w2").open(envelope)

    assert [(found.stream, found.prev, found.position) for found in opened] == [
        ("receipts", 4, 6)
    ] * 2
    assert opened[0].epoch == 9
    assert decode_rows(NOTES, opened[1].rows) == batch.rows


def test_own_envelopes_have_nothing_new() -> None:
    sender = envelopes("w1")

    assert sender.open(sealed(sender)) == []


def test_many_messages_take_several_envelopes_in_order() -> None:
    texts = [str(number) * 30_000 for number in range(10)] + ["x" * 2 * MAX_ENVELOPE_BYTES]

    found = list(envelopes("w1").seal([message(text) for text in texts]))

    reader = envelopes("w2")
    opened = [row for envelope in found for row in reader.open(envelope)]
    assert [decode_rows(NOTES, row.rows)[0][1].text for row in opened] == texts
    assert 2 < len(found) < len(texts)
    assert list(envelopes("w1").seal([])) == []


@pytest.mark.parametrize(
    "key", [envelope_key("guess", "identity"), envelope_key("secret", "copy")], ids=["secret", "db"]
)
def test_envelopes_of_another_cluster_are_rejected(key: bytes) -> None:
    with pytest.raises(InvalidEnvelope, match="seal"):
        envelopes("w2").open(sealed(envelopes("w1", key=key)))


@given(st.integers(min_value=0), st.integers(1, 255))
def test_changed_envelopes_are_rejected(position: int, difference: int) -> None:
    envelope = bytearray(sealed(envelopes("w1")))
    envelope[position % len(envelope)] ^= difference

    with pytest.raises(InvalidEnvelope):
        # No change of one byte makes the name of the sender this one.
        envelopes("reader").open(bytes(envelope))


def test_forged_contents_without_end_are_rejected() -> None:
    contents = b"\x94\xa2w1\x01\x01" + b"\x91" * 100_000

    with pytest.raises(InvalidEnvelope):
        envelopes("w2").open(bytes(16) + contents)


@given(st.binary(max_size=200))
def test_other_bytes_are_rejected(received: bytes) -> None:
    with pytest.raises(InvalidEnvelope):
        envelopes("w2").open(received)


def test_recorded_envelopes_are_rejected() -> None:
    reader, before, after = envelopes("w2"), envelopes("w1", life=1), envelopes("w1", life=2)
    recorded = [sealed(before), sealed(before)]
    new = [sealed(after), sealed(after)]
    for envelope in (*recorded, *new):
        reader.open(envelope)

    for envelope in (*recorded, *new):
        with pytest.raises(InvalidEnvelope, match="before"):
            reader.open(envelope)


def test_contents_of_another_release_are_rejected() -> None:
    sender = envelopes("w1")
    (envelope,) = sender.seal([b"\x93\x01\x02\x03"])

    with pytest.raises(InvalidEnvelope):
        envelopes("w2").open(envelope)
