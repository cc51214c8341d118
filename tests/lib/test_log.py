"""Log lines: one each, with their request, without secrets."""

import io
import logging
import sys

import orjson
import pytest

from hs.lib.log import REQUEST_ID, json_handler, text_handler, without_secrets


def written(handler: logging.Handler, message: str, *args: object, **more: object) -> str:
    """Write one record and give the line."""
    assert isinstance(handler, logging.StreamHandler)
    handler.stream = io.StringIO()
    record = logging.LogRecord("hs.test", logging.INFO, "", 1, message, args, None)
    vars(record).update(more)
    handler.handle(record)
    line: str = handler.stream.getvalue()
    return line


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("GET /sync?access_token=abc&since=1", "GET /sync?access_token=<redacted>&since=1"),
        ("Authorization: Bearer abc.def", "Authorization: Bearer <redacted>"),
        ("token syt_YWxpY2U_abc_123", "token syt_<redacted>"),
        ("nothing to hide", "nothing to hide"),
    ],
)
def test_secrets_are_struck_out(text: str, kept: str) -> None:
    assert without_secrets(text) == kept


def test_text_lines_carry_their_request_and_extras() -> None:
    REQUEST_ID.set("GET-5")

    line = written(text_handler(), "seen %s", "a cat", room="!r:test")

    assert line.endswith("INFO    hs.test [GET-5] seen a cat room=!r:test\n")


def test_nobody_forges_lines() -> None:
    line = written(text_handler(), "name %s", "x\n2026 ERROR forged\x1b[2J")

    assert line.count("\n") == 1
    assert "\x1b" not in line


def test_json_lines_are_objects() -> None:
    REQUEST_ID.set("GET-6")

    fields = orjson.loads(written(json_handler(), "seen %s", "Bearer abc", room="!r"))

    assert fields["log"] == "seen Bearer <redacted>"
    assert (fields["request"], fields["room"], fields["level"]) == ("GET-6", "!r", "INFO")


def test_tracebacks_are_kept() -> None:
    try:
        raise ValueError("boom")
    except ValueError:
        trace = sys.exc_info()

    assert "ValueError: boom" in written(text_handler(), "failed", exc_info=trace)
    assert (
        "ValueError: boom"
        in orjson.loads(written(json_handler(), "failed", exc_info=trace))["traceback"]
    )
