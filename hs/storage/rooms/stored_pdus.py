"""The form in which PDUs are stored: compressed, since all PDUs repeat the same words.

A stored PDU is JSON as it was signed, which begins with `{`, or the number of a dictionary in one
byte and a raw deflate stream. A dictionary never changes, as PDUs are stored with it for ever; a
better one would get a number of its own. Only the columns of the events table are for queries.
"""

import zlib
from typing import Final

_LEVEL: Final = 3
_WINDOW_BITS: Final = -12  # raw, 4 KiB: most PDUs are smaller, and the dictionary has to fit
_MEMORY_LEVEL: Final = 4

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
_COMPRESSOR: Final = zlib.compressobj(
    _LEVEL,
    zlib.DEFLATED,
    _WINDOW_BITS,
    _MEMORY_LEVEL,
    zlib.Z_DEFAULT_STRATEGY,
    _DICTIONARY,
)


def compress_pdu(pdu: bytes) -> bytes:
    """Return the stored form of a PDU."""
    compressor = _COMPRESSOR.copy()
    stored = b"".join((_NUMBER, compressor.compress(pdu), compressor.flush()))
    return stored if len(stored) < len(pdu) else pdu


def expand_pdu(stored: bytes) -> bytes:
    """Return the PDU of a stored form."""
    first = stored[:1]
    if first == _NUMBER:
        return zlib.decompressobj(_WINDOW_BITS, _DICTIONARY).decompress(stored[1:])
    if first != _JSON:
        raise ValueError(f"a stored PDU begins with the unknown byte {first!r}")
    return stored


def dictionary_checksum() -> int:
    """Return a checksum of the dictionary."""
    return zlib.crc32(_DICTIONARY)
