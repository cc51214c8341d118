"""What processes send each other by Redis: sealed envelopes, which nobody else can make.

Redis is shared with others who may have its password. Rules:

- The seal is a MAC over the whole envelope. Its key is derived from the replication secret and the
  identity and place of the database, so a copy of the server with a database of its own is not
  understood, even if that database began as a copy.
- An envelope has the number of its sender's life, and its number in that life. One that is not
  newer than the last one of its sender was recorded and sent again: it is dropped.
- Several messages share an envelope, and so one seal and one message of Redis.
"""

import hashlib
import hmac
from collections.abc import Iterator, Sequence
from typing import Final

import attrs
import msgspec

from hs.repl.message import Message

MAX_ENVELOPE_BYTES: Final = 256 * 1024  # unless a single message is larger

_SEAL_BYTES: Final = 16
_MAX_SENDERS: Final = 1000


class InvalidEnvelope(Exception):
    """Bytes that no process of this server sent, or that it sent before."""


class _Contents(msgspec.Struct, array_like=True, frozen=True):
    instance: str
    life: int
    number: int
    messages: msgspec.Raw


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Contents).decode
_decode_messages = msgspec.msgpack.Decoder(list[Message]).decode


def envelope_key(secret: str, identity: str) -> bytes:
    """Derive the key of the seal from the replication secret and the database's identity."""
    material = hashlib.sha256(secret.encode()).digest()
    return hashlib.blake2b(identity.encode(), key=material, digest_size=32).digest()


@attrs.define(eq=False)
class Envelopes:
    """Seals what this process sends, and opens what others send.

    `life` is greater than in each earlier life of this process. Sealing and opening may be done in
    different threads, but each in one at a time.
    """

    _key: bytes
    _instance: str
    _life: int
    _number: int = attrs.field(default=0, init=False)
    _newest: dict[str, tuple[int, int]] = attrs.field(factory=dict, init=False)

    def seal(self, messages: Sequence[bytes]) -> Iterator[bytes]:
        """Put encoded messages into envelopes, in their order."""
        first, size = 0, 0
        for index, message in enumerate(messages):
            if size and size + len(message) > MAX_ENVELOPE_BYTES:
                yield self._seal(messages[first:index])
                first, size = index, 0
            size += len(message)
        if size:
            yield self._seal(messages[first:])

    def open(self, envelope: bytes) -> list[Message]:
        """Return the messages of another process; none if it is an envelope of this one.

        Raises: InvalidEnvelope.
        """
        contents = memoryview(envelope)[_SEAL_BYTES:]
        try:
            opened = _decode(contents)
            if opened.instance == self._instance:
                return []  # whoever sent it
            if not hmac.compare_digest(envelope[:_SEAL_BYTES], self._mac(contents)):
                raise InvalidEnvelope("its seal is not of this server")
            messages = _decode_messages(opened.messages)
        except (msgspec.DecodeError, RecursionError) as error:  # of another release, or forged
            raise InvalidEnvelope(str(error)) from error
        sent = (opened.life, opened.number)
        if sent <= self._newest.get(opened.instance, (-1, -1)):
            raise InvalidEnvelope(f"{opened.instance} sent it before")
        if len(self._newest) >= _MAX_SENDERS and opened.instance not in self._newest:
            raise InvalidEnvelope("there are too many processes")
        self._newest[opened.instance] = sent
        return messages

    def _seal(self, messages: Sequence[bytes]) -> bytes:
        self._number += 1
        raw = [msgspec.Raw(message) for message in messages]
        listed = msgspec.Raw(_encode(raw))
        contents = _encode(_Contents(self._instance, self._life, self._number, listed))
        return self._mac(contents) + contents

    def _mac(self, contents: bytes | memoryview) -> bytes:
        # Where the processor has instructions for SHA-256, BLAKE2 takes twice as long.
        return hmac.digest(self._key, contents, "sha256")[:_SEAL_BYTES]
