"""The format of tokens and their hashes."""

import re

from hypothesis import given
from hypothesis import strategies as st

from hs.core.ids import UserID
from hs.services.accounts.sessions.token_format import hash_of, new_access_token, new_device_id


@given(st.text(st.characters(exclude_characters=":\0", exclude_categories=["Cs"]), max_size=50))
def test_tokens_of_any_localpart_are_valid_in_a_header(localpart: str) -> None:
    token = new_access_token(UserID(f"@{localpart}:test"))

    assert re.fullmatch(r"syt_[A-Za-z0-9+/]*_[A-Za-z]{20}_[0-9A-Za-z]{6}", token)


@given(st.text())
def test_any_text_can_be_hashed(text: str) -> None:
    assert re.fullmatch(r"[0-9a-f]{64}", hash_of(text))


def test_tokens_and_device_ids_are_unique() -> None:
    user_id = UserID("@alice:test")

    assert len({new_access_token(user_id) for _ in range(100)}) == 100
    assert len({new_device_id() for _ in range(100)}) == 100
