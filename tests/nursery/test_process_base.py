"""What processes of one server have in common without being told."""

import subprocess
import sys

from hs.core.signing.keys import SigningKey
from hs.repl.signing_key import derived_secret


def test_without_a_secret_processes_share_one_that_only_their_signing_key_tells() -> None:
    ours = SigningKey.from_seed("a", b"1" * 32)

    assert derived_secret(ours) == derived_secret(SigningKey.from_seed("a", b"1" * 32))
    assert derived_secret(ours) != derived_secret(SigningKey.from_seed("a", b"2" * 32))
    assert len(derived_secret(ours)) == 64


def test_what_only_some_installations_need_is_not_loaded_by_all() -> None:
    loaded = subprocess.run(
        [sys.executable, "-c", "import sys, hs.nursery.boot; print(*sys.modules)"],
        check=True,
        capture_output=True,
        text=True,
    )

    some = {"redis", "asyncpg", "boto3", "PIL", "selectolax"}
    assert some.isdisjoint(loaded.stdout.split())
