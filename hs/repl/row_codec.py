"""The encoding of rows in messages and in the log: MessagePack maps with field names."""

from typing import Any

import msgspec

from hs.core.stream_def import StreamDef

_encoder = msgspec.msgpack.Encoder()
_decoders: dict[type[Any], msgspec.msgpack.Decoder[Any]] = {}


def encode_rows(rows: list[tuple[int, Any]]) -> bytes:
    """Encode (number, row) pairs; safe in any thread."""
    return _encoder.encode(rows)


def decode_rows(stream: StreamDef[Any], encoded: bytes | msgspec.Raw) -> list[tuple[int, Any]]:
    """Decode the (number, row) pairs of a stream.

    Raises: msgspec.ValidationError, msgspec.DecodeError.
    """
    decoder = _decoders.get(stream.row)
    if decoder is None:
        decoder = _decoders[stream.row] = _decoder(stream.row)
    rows: list[tuple[int, Any]] = decoder.decode(encoded)
    return rows


def _decoder(row: Any) -> msgspec.msgpack.Decoder[Any]:
    return msgspec.msgpack.Decoder(list[tuple[int, row]])
