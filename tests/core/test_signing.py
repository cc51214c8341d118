"""Signing: the specification's test vectors, key files, and invalid signatures."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hs.core.errors import InvalidSignature, InvalidSigningKey
from hs.core.ids import ServerName
from hs.core.signing.keys import Signer, SigningKey, VerifyKey, parse_signing_keys
from hs.core.signing.signed_json import sign_json, verify_json
from hs.core.unpadded_base64 import decode_base64, encode_base64, encode_urlsafe_base64

SEED = "YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA1"
SIGNER = Signer(ServerName("domain"), SigningKey.from_seed("1", decode_base64(SEED)))
KEYS = {"ed25519:1": SIGNER.key.verify_key}


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"", ""),
        (b"f", "Zg"),
        (b"fo", "Zm8"),
        (b"foo", "Zm9v"),
        (b"foob", "Zm9vYg"),
        (b"fooba", "Zm9vYmE"),
        (b"foobar", "Zm9vYmFy"),
    ],
)
def test_base64_vectors_of_the_specification(raw: bytes, text: str) -> None:
    assert encode_base64(raw) == text
    assert decode_base64(text) == raw
    assert decode_base64(text + "=" * (-len(text) % 4)) == raw


@given(st.binary())
def test_base64_of_either_alphabet_round_trips(raw: bytes) -> None:
    assert decode_base64(encode_base64(raw)) == raw
    assert decode_base64(encode_urlsafe_base64(raw)) == raw


@pytest.mark.parametrize(
    ("value", "signature"),
    [
        (
            {},
            "K8280/U9SSy9IVtjBuVeLr+HpOB4BQFWbg+UZaADMtTdGYI7Geitb76LTrr5QV/7Xg4ahLwYGYZzuHGZKM5ZAQ",
        ),
        (
            {"one": 1, "two": "Two"},
            "KqmLSbO39/Bzb0QIYE82zqLwsA+PDzYIpIRA2sRQ4sL53+sN6/fpNSoqE7BP7vBZhG6kYdD13EIMJpvhJI+6Bw",
        ),
    ],
)
def test_json_signing_vectors_of_the_specification(value: dict[str, Any], signature: str) -> None:
    signed = sign_json(value, SIGNER)

    assert signed == {**value, "signatures": {"domain": {"ed25519:1": signature}}}
    verify_json(signed, "domain", KEYS)


_OBJECTS = st.dictionaries(st.text(max_size=5), st.integers(0, 9) | st.text(max_size=5), max_size=4)


@settings(max_examples=25)
@given(_OBJECTS, _OBJECTS)
def test_signature_is_valid_only_for_its_object(
    value: dict[str, Any], other_value: dict[str, Any]
) -> None:
    signed = sign_json(value, SIGNER)

    verify_json({**signed, "unsigned": {"age": 3}}, "domain", KEYS)
    if {**value, "signatures": 0, "unsigned": 0} != {**other_value, "signatures": 0, "unsigned": 0}:
        with pytest.raises(InvalidSignature):
            verify_json({**other_value, "signatures": signed["signatures"]}, "domain", KEYS)


def test_existing_signatures_are_kept_and_unknown_keys_ignored() -> None:
    value = {"a": 1, "signatures": {"domain": {"ed25519:old": "x"}, "other": {"k": "y"}}}

    signed = sign_json(value, SIGNER)

    assert signed["signatures"]["other"] == {"k": "y"}
    assert signed["signatures"]["domain"]["ed25519:old"] == "x"
    verify_json(signed, "domain", KEYS)
    with pytest.raises(InvalidSignature, match="no signature"):
        verify_json(signed, "other", KEYS)
    with pytest.raises(InvalidSignature, match="no signature"):
        verify_json(signed, "domain", {})


@pytest.mark.parametrize("text", ["", "!!", "AAAA", None, 5, encode_base64(bytes(64))])
def test_malformed_signature_is_rejected(text: object) -> None:
    with pytest.raises(InvalidSignature):
        verify_json({"signatures": {"domain": {"ed25519:1": text}}}, "domain", KEYS)


def test_key_file_round_trips() -> None:
    text = "ed25519 a_abcd " + SEED + "\n\n" + SIGNER.key.file_line()

    first, second = parse_signing_keys(text)

    assert (first.key_id, second.key_id) == ("ed25519:a_abcd", "ed25519:1")
    assert second == SIGNER.key
    assert SEED not in repr(first)


@pytest.mark.parametrize(
    "text", ["", "ed25519 a", "rsa a " + SEED, "ed25519 a x", "ed25519 a! " + SEED]
)
def test_malformed_key_file_is_rejected(text: str) -> None:
    with pytest.raises(InvalidSigningKey):
        parse_signing_keys(text)


@pytest.mark.parametrize("text", ["", "AAAA", "*", None])
def test_malformed_public_key_is_rejected(text: object) -> None:
    with pytest.raises(InvalidSigningKey):
        VerifyKey.parse("ed25519:1", text)
    assert VerifyKey.parse("ed25519:1", SIGNER.key.verify_key.base64) == SIGNER.key.verify_key
