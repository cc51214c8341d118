"""Loads the signing key that the settings name, and derives the replication secret from it."""

import hashlib
from pathlib import Path

from hs.core.errors import InvalidSigningKey
from hs.core.signing.keys import SigningKey, parse_signing_keys
from hs.settings.errors import Problem, SettingsError
from hs.settings.settings import Settings


def signing_key_of(settings: Settings) -> SigningKey:
    """Return the key that signs events.

    Raises: SettingsError, if the file cannot be read or does not contain a key.
    """
    keys = settings.signing_keys
    text, path = keys.signing_key, keys.signing_key_path
    try:
        if text is None:
            assert path is not None
            text = path.read_text("ascii")
        return parse_signing_keys(text)[0]
    except (OSError, ValueError, InvalidSigningKey) as error:
        is_inline = keys.signing_key is not None
        source = "signing_key" if is_inline else f"{path}"
        cause = (isinstance(error, OSError) and error.strerror) or error
        raise SettingsError(
            [
                Problem(
                    key="signing_key" if is_inline else "signing_key_path",
                    message=f"cannot read a signing key from {source}: {cause}",
                    remedy="restore it from a backup; for a new server, use `hs generate-config`",
                )
            ]
        ) from None


def keys_in_file(path: Path, setting: str) -> list[SigningKey]:
    """Return the signing keys in a file that a setting names. Raises: SettingsError."""
    try:
        return parse_signing_keys(path.read_text("ascii"))
    except (OSError, ValueError, InvalidSigningKey) as error:
        cause = (isinstance(error, OSError) and error.strerror) or error
        message = f"cannot read signing keys from {path}: {cause}"
        raise SettingsError(
            [Problem(key=setting, message=message, remedy="correct the path, or remove the key")]
        ) from None


def replication_secret_of(settings: Settings) -> str:
    """Return the secret with which the processes of this server authenticate to each other.

    Without `worker_replication_secret`, it is derived from the signing key, which all processes of
    this server have and no others.
    """
    return settings.workers.secret or derived_secret(signing_key_of(settings))


def nonce_key_of(settings: Settings) -> bytes:
    """Derive the key that signs nonces of registrations, the same in all processes."""
    signature = signing_key_of(settings).sign(b"nonces of registrations")
    return hashlib.sha256(signature.encode()).digest()


def derived_secret(key: SigningKey) -> str:
    """Derive the replication secret from a signing key."""
    return hashlib.sha256(key.sign(b"replication between our processes").encode()).hexdigest()
