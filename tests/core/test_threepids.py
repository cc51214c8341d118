"""Third-party identifiers: the canonical form of e-mail addresses and phone numbers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hs.core.errors import InvalidParam
from hs.core.threepids import canonical_address, canonical_email, canonical_msisdn
from hs.lib.mail.mailer import Mail, compose_message

UNUSUAL_TEXT = st.text(
    st.sampled_from("ab\"().,:;<>[]\\@ \tü漢\u200b%+=?-_!#$&'*/^`{|}~1"), max_size=14
)


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        (" Alice@Example.ORG ", "alice@example.org"),
        ("STRASSE@ß.example.org", "strasse@ss.example.org"),
        ("a+b@example.co.uk", "a+b@example.co.uk"),
    ],
)
def test_email_is_trimmed_and_case_folded(text: str, canonical: str) -> None:
    assert canonical_email(text) == canonical


@pytest.mark.parametrize(
    "text",
    ["", "a", "a@b", "@b.c", "a@b@c.d", "a b@c.d", "<a@b.c>", "a@b.c\n\nx", "a" * 600 + "@b.c"],
)
def test_invalid_email_is_rejected(text: str) -> None:
    with pytest.raises(InvalidParam):
        canonical_email(text)


@given(UNUSUAL_TEXT, UNUSUAL_TEXT)
def test_canonical_email_is_stable_and_valid_in_a_message(local: str, host: str) -> None:
    try:
        address = canonical_email(f"{local}@{host}.org")
    except InvalidParam:
        return

    assert canonical_email(address) == address
    mail = Mail(to=address, subject="s", text="t", html="h")
    message = compose_message(mail, "Us <us@example.org>")
    assert [recipient.addr_spec for recipient in message["To"].addresses] == [address]


@pytest.mark.parametrize("text", ["+44 7700 900123", "447700900123", "+44 (7700) 900-123"])
def test_phone_number_is_reduced_to_digits(text: str) -> None:
    assert canonical_msisdn(text) == "447700900123"


@pytest.mark.parametrize("text", ["", "+", "07700900123", "+44 abc", "1" * 20])
def test_invalid_phone_number_is_rejected(text: str) -> None:
    with pytest.raises(InvalidParam):
        canonical_msisdn(text)


def test_unknown_medium_is_rejected() -> None:
    assert canonical_address("email", "A@b.c") == "a@b.c"
    assert canonical_address("msisdn", "+447700900123") == "447700900123"
    with pytest.raises(InvalidParam):
        canonical_address("fax", "1")
