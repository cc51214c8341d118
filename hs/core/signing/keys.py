"""Ed25519 keys: the server's own, read from its signing key file, and those of other servers.

Spec: appendices, Signing Details.
"""

import re

import attrs
from nacl import bindings
from nacl.exceptions import CryptoError

from hs.core.errors import InvalidSigningKey
from hs.core.ids import ServerName
from hs.core.unpadded_base64 import decode_base64, encode_base64

ALGORITHM = "ed25519"
SEED_BYTES = 32

_VERSION = re.compile(r"[A-Za-z0-9_]+", re.ASCII)


@attrs.frozen(repr=False)
class VerifyKey:
    """A public key with its key ID, `ed25519:version`."""

    key_id: str
    raw: bytes

    @classmethod
    def parse(cls, key_id: str, text: object) -> "VerifyKey":
        """Parse a public key in base64.

        Raises: InvalidSigningKey.
        """
        try:
            raw = decode_base64(text) if isinstance(text, str) else b""
        except ValueError as fault:
            raise InvalidSigningKey(f"The public key {key_id} is not valid base64") from fault
        if len(raw) != bindings.crypto_sign_PUBLICKEYBYTES:
            raise InvalidSigningKey(f"The public key {key_id} must be 32 bytes long")
        return cls(key_id, raw)

    @property
    def base64(self) -> str:
        """The key in unpadded base64, as it is published to other servers."""
        return encode_base64(self.raw)

    def verifies(self, message: bytes, signature: bytes) -> bool:
        """Return whether a signature over a message was made with this key."""
        if len(signature) != bindings.crypto_sign_BYTES:
            return False
        try:
            bindings.crypto_sign_open(signature + message, self.raw)
        except CryptoError:
            return False
        return True

    def __repr__(self) -> str:
        return f"<VerifyKey {self.key_id} {self.base64}>"


@attrs.frozen(repr=False)
class SigningKey:
    """A private key of this server with its key ID, `ed25519:version`."""

    key_id: str
    verify_key: VerifyKey
    _secret: bytes

    @classmethod
    def from_seed(cls, version: str, seed: bytes) -> "SigningKey":
        """Derive a key from a 32-byte seed; for a new key the seed is 32 random bytes.

        Raises: InvalidSigningKey.
        """
        if _VERSION.fullmatch(version) is None:
            raise InvalidSigningKey("A key version must consist of a-z, A-Z, 0-9 and _")
        if len(seed) != SEED_BYTES:
            raise InvalidSigningKey("The seed of a signing key must be 32 bytes long")
        public, secret = bindings.crypto_sign_seed_keypair(seed)
        key_id = f"{ALGORITHM}:{version}"
        return cls(key_id, VerifyKey(key_id, public), secret)

    def sign(self, message: bytes) -> str:
        """Return the signature of a message in unpadded base64."""
        signed = bindings.crypto_sign(message, self._secret)
        return encode_base64(signed[: bindings.crypto_sign_BYTES])

    def file_line(self) -> str:
        """Return the line of the signing key file that contains this key."""
        version = self.key_id.partition(":")[2]
        return f"{ALGORITHM} {version} {encode_base64(self._secret[:SEED_BYTES])}\n"

    def __repr__(self) -> str:
        return f"<SigningKey {self.key_id}>"


@attrs.frozen
class Signer:
    """The server name and the key that this server signs with."""

    server_name: ServerName
    key: SigningKey


def parse_signing_keys(text: str) -> list[SigningKey]:
    """Parse a signing key file: lines of `ed25519 version base64seed`.

    Raises: InvalidSigningKey, also if the file contains no key.
    """
    keys = [_parse_line(line) for line in text.splitlines() if line.strip()]
    if not keys:
        raise InvalidSigningKey("The signing key file contains no key")
    return keys


def _parse_line(line: str) -> SigningKey:
    fields = line.split()
    if len(fields) != 3 or fields[0] != ALGORITHM:
        raise InvalidSigningKey(
            "Each line of a signing key file must have the form: ed25519 VERSION BASE64SEED"
        )
    try:
        seed = decode_base64(fields[2])
    except ValueError as fault:
        raise InvalidSigningKey("The seed of a signing key must be base64") from fault
    return SigningKey.from_seed(fields[1], seed)
