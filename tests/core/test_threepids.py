"""The form in which addresses and numbers are compared."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hs.core.errors import InvalidParam
from hs.core.threepids import canonical_address, canonical_email, canonical_msisdn
from hs.lib.mail.mailer import Mail, written

ODD = st.text(st.sampled_from("ab\"().,:;<>[]\\@ \tü漢\u200b%+=?-_!#$&'*/^`{|}~1"), max_size=14)


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        (" Alice@Example.ORG ", "alice@example.org"),
        ("STRASSE@ß.example.org", "strasse@ss.example.org"),
        ("a+b@example.co.uk", "a+b@example.co.uk"),
    ],
)
def test_addresses_are_compared_in_one_case(text: str, kept: str) -> None:
    assert canonical_email(text) == kept


@pytest.mark.parametrize(
    "text",
    ["", "a", "a@b", "@b.c", "a@b@c.d", "a b@c.d", "<a@b.c>", "a@b.c\n\nx", "a" * 600 + "@b.c"],
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(InvalidParam):
        canonical_email(text)


@given(ODD, ODD)
def test_what_is_kept_stays_as_it_is_and_can_be_written_to(local: str, host: str) -> None:
    try:
        address = canonical_email(f"{local}@{host}.org")
    except InvalidParam:
        return

    assert canonical_email(address) == address
    message = written(Mail(to=address, subject="s", text="t", html="h"), "Us <us@example.org>")
    assert [one.addr_spec for one in message["To"].addresses] == [address]


@pytest.mark.parametrize("text", ["+44 7700 900123", "447700900123", "+44 (7700) 900-123"])
def test_numbers_are_compared_by_their_digits(text: str) -> None:
    assert canonical_msisdn(text) == "447700900123"


@pytest.mark.parametrize("text", ["", "+", "07700900123", "+44 abc", "1" * 20])
def test_what_is_no_number_is_refused(text: str) -> None:
    with pytest.raises(InvalidParam):
        canonical_msisdn(text)


def test_there_are_two_kinds_of_address() -> None:
    assert canonical_address("email", "A@b.c") == "a@b.c"
    assert canonical_address("msisdn", "+447700900123") == "447700900123"
    with pytest.raises(InvalidParam):
        canonical_address("fax", "1")
