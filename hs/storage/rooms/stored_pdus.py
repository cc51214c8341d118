"""The form in which PDUs are stored: compressed, since all PDUs repeat the same words.

A stored PDU is JSON as it was signed, which begins with `{`, or the number of a dictionary in one
byte and a raw deflate stream. A dictionary never changes, as PDUs are stored with it for ever; a
better one would get a number of its own. Only the columns of the events table are for queries.

A small PDU is compressed with the fixed codes of deflate: codes of its own would save a tenth, but
to expand it would take twice as long, because decoders begin with tables of the codes.
"""

import zlib
from typing import Final

_LEVEL: Final = 3
_WINDOW_BITS: Final = -12  # raw, 4 KiB: most PDUs are smaller, and the dictionary has to fit
_MEMORY_LEVEL: Final = 4
_SMALL_BYTES: Final = 800
# Enough for nearly all PDUs. Without a bound, zlib begins with 32 KiB.
_BUFFER_BYTES: Final = 4096

# What is repeated most is last, where it is cheapest to refer to.
_DICTIONARY: Final = (
    b'"m.relates_to":{"event_id":"$","is_falling_back":true,"m.in_reply_to":{"event_id":"$"},'
    b'"rel_type":"m.thread"}"m.replace"}"format":"org.matrix.custom.html","formatted_body":"",'
    b'"m.new_content":{"info":{"h":,"mimetype":"image/png","size":,"w":},"url":"mxc://",'
    b'"type":"m.reaction","m.room.encrypted","algorithm":"m.megolm.v1.aes-sha2","ciphertext":"AwgAEn'
    b'","device_id":"","sender_key":"","session_id":""},"avatar_url":"mxc://","displayname":"",'
    b'"membership":"join"},"state_key":"@"key":"m.annotation"},"type":"m.room.member","unsigned":{}'
    b'{"auth_events":["$","$","$"],"content":{"body":"","m.mentions":{"user_ids":["@"]},'
    b'"msgtype":"m.text"},"depth":,"hashes":{"sha256":""},"origin_server_ts":17,"prev_events":["$"],'
    b'"room_id":"!","sender":"@","signatures":{"":{"ed25519:a_":""}},"type":"m.room.message"}'
)
_NUMBER: Final = b"\x01"
_JSON: Final = b"{"

# Copied for each PDU: reading the dictionary costs more than compressing. For expanding, a copy
# costs as much as reading the dictionary.
_COMPRESSOR, _COMPRESSOR_OF_SMALL = (
    zlib.compressobj(_LEVEL, zlib.DEFLATED, _WINDOW_BITS, _MEMORY_LEVEL, strategy, _DICTIONARY)
    for strategy in (zlib.Z_DEFAULT_STRATEGY, zlib.Z_FIXED)
)


def compress_pdu(pdu: bytes) -> bytes:
    """Return the stored form of a PDU."""
    compressor = (_COMPRESSOR_OF_SMALL if len(pdu) <= _SMALL_BYTES else _COMPRESSOR).copy()
    stored = b"".join((_NUMBER, compressor.compress(pdu), compressor.flush()))
    return stored if len(stored) < len(pdu) else pdu


def expand_pdu(stored: bytes) -> bytes:
    """Return the PDU of a stored form."""
    first = stored[:1]
    if first == _NUMBER:
        expander = zlib.decompressobj(_WINDOW_BITS, _DICTIONARY)
        pdu = expander.decompress(stored[1:], _BUFFER_BYTES)
        return pdu if expander.eof else pdu + expander.decompress(expander.unconsumed_tail)
    if first != _JSON:
        raise ValueError(f"a stored PDU begins with the unknown byte {first!r}")
    return stored


def dictionary_checksum() -> int:
    """Return a checksum of the dictionary."""
    return zlib.crc32(_DICTIONARY)
