"""Unpadded base64, the encoding of binary data in Matrix.

Spec: appendices, Unpadded Base64.
"""

import base64
import binascii


def encode_base64(raw: bytes) -> str:
    """Encode bytes as standard base64 without padding."""
    return binascii.b2a_base64(raw, newline=False).rstrip(b"=").decode()


def encode_urlsafe_base64(raw: bytes) -> str:
    """Encode bytes as URL-safe base64 without padding."""
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def decode_base64(text: str) -> bytes:
    """Decode base64 of either alphabet, with or without padding.

    Raises: ValueError.
    """
    standard = text.rstrip("=").translate(_STANDARD)
    padded = standard + "=" * (-len(standard) % 4)
    return base64.b64decode(padded.encode("ascii"), validate=True)


_STANDARD = str.maketrans("-_", "+/")
