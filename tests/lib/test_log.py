"""Log lines: one each, with their request, without secrets."""

import io
import logging
import sys
import time

import orjson
import pytest
import trio
import trio.testing

from hs.lib.log import REQUEST_ID, BatchedLines, json_handler, text_handler, without_secrets


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


async def test_lines_are_written_together_with_the_times_and_requests_they_belong_to() -> None:
    written = io.StringIO()
    logger = logging.getLogger("hs.test.batched")
    logger.propagate = False
    handler = text_handler(written)
    logger.addHandler(handler)
    lines = BatchedLines(logger)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lines.run)
            await trio.testing.wait_all_tasks_blocked()
            for number in (1, 2):
                REQUEST_ID.set(f"GET-{number}")
                lines.note(f"line {number}")
            assert written.getvalue() == ""
            nursery.cancel_scope.cancel()
        REQUEST_ID.set("GET-3")
        lines.note("line 3")
    finally:
        logger.removeHandler(handler)

    told = [line.split("[")[1] for line in written.getvalue().splitlines()]
    assert told == ["GET-1] line 1", "GET-2] line 2", "GET-3] line 3"]


def test_lines_that_were_held_back_carry_the_time_at_which_they_were_noted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    written = io.StringIO()
    logger = logging.getLogger("hs.test.batched_times")
    logger.propagate = False
    handler = logging.StreamHandler(written)
    handler.setFormatter(
        logging.Formatter("%(created).3f %(msecs)d %(relativeCreated)d %(message)s")
    )
    logger.addHandler(handler)
    lines = BatchedLines(logger)
    now = logging.LogRecord("hs", logging.INFO, "", 0, "", None, None)
    times = [int(now.created) + after_s for after_s in (1.25, 100.5)]
    try:
        for noted in times:
            monkeypatch.setattr(time, "time", lambda noted=noted: noted)
            lines.note("line")
    finally:
        logger.removeHandler(handler)

    told = [line.split() for line in written.getvalue().splitlines()]
    assert [line[:2] for line in told] == [
        [f"{times[0]:.3f}", "250"],
        [f"{times[1]:.3f}", "500"],
    ]
    ages_ms = [(noted - now.created) * 1000 + now.relativeCreated for noted in times]
    assert [int(line[2]) for line in told] == pytest.approx(ages_ms, abs=2)
