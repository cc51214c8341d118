"""What processes of one server have in common without being told."""

from hs.core.signing.keys import SigningKey
from hs.nursery.foundation import secret_of


def test_without_a_secret_processes_share_one_that_only_their_signing_key_tells() -> None:
    ours = SigningKey.from_seed("a", b"1" * 32)

    assert secret_of(ours) == secret_of(SigningKey.from_seed("a", b"1" * 32))
    assert secret_of(ours) != secret_of(SigningKey.from_seed("a", b"2" * 32))
    assert len(secret_of(ours)) == 64
