"""Ed25519 keys: the server's own, from its signing key file, and those of peers.

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
    """A public key, named `ed25519:version`."""

    key_id: str
    raw: bytes

    @classmethod
    def parse(cls, key_id: str, text: object) -> "VerifyKey":
        """Read a public key in base64.

        Raises: InvalidSigningKey.
        """
        try:
            raw = decode_base64(text) if isinstance(text, str) else b""
        except ValueError as fault:
            raise InvalidSigningKey(f"The public key {key_id} is not base64") from fault
        if len(raw) != bindings.crypto_sign_PUBLICKEYBYTES:
            raise InvalidSigningKey(f"The public key {key_id} has a wrong length")
        return cls(key_id, raw)

    @property
    def base64(self) -> str:
        """Give the key as other servers are told it."""
        return encode_base64(self.raw)

    def verifies(self, message: bytes, signature: bytes) -> bool:
        """Tell whether a signature over a message is by this key."""
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
    """A private key of this server, named `ed25519:version`."""

    key_id: str
    verify_key: VerifyKey
    _secret: bytes

    @classmethod
    def from_seed(cls, version: str, seed: bytes) -> "SigningKey":
        """Make the key of a 32-byte seed; a new key's seed is 32 random bytes.

        Raises: InvalidSigningKey.
        """
        if _VERSION.fullmatch(version) is None:
            raise InvalidSigningKey("A key's version is made of letters, digits and underscores")
        if len(seed) != SEED_BYTES:
            raise InvalidSigningKey("A signing key's seed has 32 bytes")
        public, secret = bindings.crypto_sign_seed_keypair(seed)
        key_id = f"{ALGORITHM}:{version}"
        return cls(key_id, VerifyKey(key_id, public), secret)

    def sign(self, message: bytes) -> str:
        """Sign a message; give the signature in unpadded base64."""
        signed = bindings.crypto_sign(message, self._secret)
        return encode_base64(signed[: bindings.crypto_sign_BYTES])

    def file_line(self) -> str:
        """Give the line of the signing key file that holds this key."""
        version = self.key_id.partition(":")[2]
        return f"{ALGORITHM} {version} {encode_base64(self._secret[:SEED_BYTES])}\n"

    def __repr__(self) -> str:
        return f"<SigningKey {self.key_id}>"


@attrs.frozen
class Signer:
    """Under which server name, and with which key, this server signs."""

    server_name: ServerName
    key: SigningKey


def parse_signing_keys(text: str) -> list[SigningKey]:
    """Read a signing key file: lines of `ed25519 version base64seed`.

    Raises: InvalidSigningKey, also when the file holds no key.
    """
    keys = [_parse_line(line) for line in text.splitlines() if line.strip()]
    if not keys:
        raise InvalidSigningKey("The signing key file holds no key")
    return keys


def _parse_line(line: str) -> SigningKey:
    fields = line.split()
    if len(fields) != 3 or fields[0] != ALGORITHM:
        raise InvalidSigningKey("A line of a signing key file is: ed25519 VERSION BASE64SEED")
    try:
        seed = decode_base64(fields[2])
    except ValueError as fault:
        raise InvalidSigningKey("The seed of a signing key is not base64") from fault
    return SigningKey.from_seed(fields[1], seed)
