"""Errors: their bodies, and finding the class of one that another process raised."""

from hs.core.errors import Forbidden, LimitExceeded, MatrixError, UnknownToken, matrix_error


def test_the_body_has_errcode_message_and_extra() -> None:
    error = LimitExceeded("Slow down", retry_after_ms=200)

    assert (error.status, error.errcode) == (429, "M_LIMIT_EXCEEDED")
    assert error.body() == {
        "errcode": "M_LIMIT_EXCEEDED",
        "error": "Slow down",
        "retry_after_ms": 200,
    }


def test_an_error_from_elsewhere_gets_its_class_back() -> None:
    forbidden = matrix_error("M_FORBIDDEN", 403, "no")
    token = matrix_error("M_UNKNOWN_TOKEN", 401, "gone", soft_logout=True)
    other = matrix_error("ORG_OTHER", 418, "tea")

    assert isinstance(forbidden, Forbidden)
    assert isinstance(token, UnknownToken)
    assert token.extra == {"soft_logout": True}
    assert type(other) is MatrixError
