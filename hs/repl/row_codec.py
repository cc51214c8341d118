"""Encoding of stream rows, on the wire and in the log: MessagePack maps by field name."""

from typing import Any

import msgspec

from hs.repl.streams import StreamDef

_encoder = msgspec.msgpack.Encoder()
_decoders: dict[type[Any], msgspec.msgpack.Decoder[Any]] = {}


def encode_rows(rows: list[tuple[int, Any]]) -> bytes:
    """Encode (id, row) pairs; safe in any thread."""
    return _encoder.encode(rows)


def decode_rows(stream: StreamDef[Any], encoded: bytes | msgspec.Raw) -> list[tuple[int, Any]]:
    """Decode what `encode_rows` gave for this stream.

    Raises: msgspec.ValidationError or msgspec.DecodeError for anything else.
    """
    decoder = _decoders.get(stream.row)
    if decoder is None:
        decoder = _decoders[stream.row] = _decoder(stream.row)
    rows: list[tuple[int, Any]] = decoder.decode(encoded)
    return rows


def _decoder(row: Any) -> msgspec.msgpack.Decoder[Any]:
    return msgspec.msgpack.Decoder(list[tuple[int, row]])
