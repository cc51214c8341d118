"""The derived replication secret, and the modules that a process imports at start."""

import subprocess
import sys

from hs.core.signing.keys import SigningKey
from hs.repl.signing_key import derived_secret


def test_replication_secret_is_derived_from_signing_key() -> None:
    key = SigningKey.from_seed("a", b"1" * 32)

    assert derived_secret(key) == derived_secret(SigningKey.from_seed("a", b"1" * 32))
    assert derived_secret(key) != derived_secret(SigningKey.from_seed("a", b"2" * 32))
    assert len(derived_secret(key)) == 64


def test_optional_libraries_are_not_imported_at_start() -> None:
    completed = subprocess.run(
        [sys.executable, "-c", "import sys, hs.nursery.boot; print(*sys.modules)"],
        check=True,
        capture_output=True,
        text=True,
    )

    optional = {"redis", "asyncpg", "boto3", "PIL", "selectolax"}
    assert optional.isdisjoint(completed.stdout.split())
