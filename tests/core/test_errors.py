"""Errors: their JSON bodies, and restoring the class of an error from another process."""

from hs.core.errors import Forbidden, LimitExceeded, MatrixError, UnknownToken, matrix_error


def test_body_contains_errcode_message_and_extra_fields() -> None:
    error = LimitExceeded("Slow down", retry_after_ms=200)

    assert (error.status, error.errcode) == (429, "M_LIMIT_EXCEEDED")
    assert error.body() == {
        "errcode": "M_LIMIT_EXCEEDED",
        "error": "Slow down",
        "retry_after_ms": 200,
    }


def test_matrix_error_restores_known_class() -> None:
    forbidden = matrix_error("M_FORBIDDEN", 403, "no")
    token = matrix_error("M_UNKNOWN_TOKEN", 401, "gone", soft_logout=True)
    unknown = matrix_error("ORG_OTHER", 418, "tea")

    assert isinstance(forbidden, Forbidden)
    assert isinstance(token, UnknownToken)
    assert token.extra == {"soft_logout": True}
    assert type(unknown) is MatrixError
