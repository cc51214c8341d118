"""Log lines: format, request IDs and redaction of secrets."""

import io
import logging
import sys
import time
from collections.abc import Iterator

import orjson
import pytest
import trio
import trio.testing

from hs.lib.log import (
    NO_REQUEST,
    REQUEST_ID,
    BatchedLines,
    QuietRepeats,
    json_handler,
    name_process,
    protect,
    text_handler,
    without_secrets,
)


@pytest.fixture(autouse=True)
def restored_request_id() -> Iterator[None]:
    """Restore the request ID, which tests that are not tasks set in the context of the process."""
    name_process("")  # a test that starts a process leaves its name
    token = REQUEST_ID.set(NO_REQUEST)
    yield
    REQUEST_ID.reset(token)


def logged_line(handler: logging.Handler, message: str, *args: object, **extra: object) -> str:
    """Format one record and return the line."""
    assert isinstance(handler, logging.StreamHandler)
    handler.stream = io.StringIO()
    record = logging.LogRecord("hs.test", logging.INFO, "", 1, message, args, None)
    vars(record).update(extra)
    handler.handle(record)
    line: str = handler.stream.getvalue()
    return line


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ("GET /sync?access_token=abc&since=1", "GET /sync?access_token=<redacted>&since=1"),
        ("Authorization: Bearer abc.def", "Authorization: Bearer <redacted>"),
        ("token syt_YWxpY2U_abc_123", "token syt_<redacted>"),
        ("token syr_YWxpY2U_abc_123", "token syr_<redacted>"),
        ("/login?loginToken=syl_YWxpY2U_abc_123 HTTP", "/login?loginToken=syl_<redacted> HTTP"),
        ("nothing to hide", "nothing to hide"),
    ],
)
def test_secrets_are_redacted(text: str, redacted: str) -> None:
    assert without_secrets(text) == redacted


def test_text_lines_contain_request_id_and_extras() -> None:
    REQUEST_ID.set("GET-5")

    line = logged_line(text_handler(), "seen %s", "a cat", room="!r:test")

    assert line.endswith("INFO    hs.test [GET-5] seen a cat room=!r:test\n")


def test_lines_name_the_process() -> None:
    REQUEST_ID.set("GET-5")
    name_process("sync1")
    text = logged_line(text_handler(), "seen a cat")
    fields = orjson.loads(logged_line(json_handler(), "seen a cat"))
    name_process("")

    assert text.endswith("INFO    hs.test [sync1/GET-5] seen a cat\n")
    assert (fields["process"], fields["request"]) == ("sync1", "GET-5")


def test_control_characters_are_escaped() -> None:
    line = logged_line(text_handler(), "name %s", "x\n2026 ERROR forged\x1b[2J")

    assert line.count("\n") == 1
    assert "\x1b" not in line


def test_json_lines_are_objects() -> None:
    REQUEST_ID.set("GET-6")

    fields = orjson.loads(logged_line(json_handler(), "seen %s", "Bearer abc", room="!r"))

    assert fields["log"] == "seen Bearer <redacted>"
    assert (fields["request"], fields["room"], fields["level"]) == ("GET-6", "!r", "INFO")


def test_tracebacks_are_logged() -> None:
    try:
        raise ValueError("boom")
    except ValueError:
        trace = sys.exc_info()

    assert "ValueError: boom" in logged_line(text_handler(), "failed", exc_info=trace)
    assert (
        "ValueError: boom"
        in orjson.loads(logged_line(json_handler(), "failed", exc_info=trace))["traceback"]
    )


async def test_batched_lines_keep_their_request_ids() -> None:
    output = io.StringIO()
    logger = logging.getLogger("hs.test.batched")
    logger.propagate = False
    handler = text_handler(output)
    logger.addHandler(handler)
    lines = BatchedLines(logger)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lines.run)
            await trio.testing.wait_all_tasks_blocked()
            for number in (1, 2):
                REQUEST_ID.set(f"GET-{number}")
                lines.note(f"line {number}")
            assert output.getvalue() == ""
            nursery.cancel_scope.cancel()
        REQUEST_ID.set("GET-3")
        lines.note("line 3")
    finally:
        logger.removeHandler(handler)

    logged = [line.split("[")[1] for line in output.getvalue().splitlines()]
    assert logged == ["GET-1] line 1", "GET-2] line 2", "GET-3] line 3"]


def test_batched_lines_keep_the_time_of_noting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    output = io.StringIO()
    logger = logging.getLogger("hs.test.batched_times")
    logger.propagate = False
    handler = logging.StreamHandler(output)
    handler.setFormatter(
        logging.Formatter("%(created).3f %(msecs)d %(relativeCreated)d %(message)s")
    )
    logger.addHandler(handler)
    lines = BatchedLines(logger)
    now = logging.LogRecord("hs", logging.INFO, "", 0, "", None, None)
    times = [int(now.created) + after_s for after_s in (1.25, 100.5)]
    try:
        for noted_at in times:
            monkeypatch.setattr(time, "time", lambda noted_at=noted_at: noted_at)
            lines.note("line")
    finally:
        logger.removeHandler(handler)

    logged = [line.split() for line in output.getvalue().splitlines()]
    assert [line[:2] for line in logged] == [
        [f"{times[0]:.3f}", "250"],
        [f"{times[1]:.3f}", "500"],
    ]
    ages_ms = [(noted_at - now.created) * 1000 + now.relativeCreated for noted_at in times]
    assert [int(line[2]) for line in logged] == pytest.approx(ages_ms, abs=2)


@pytest.fixture
def own_logger() -> Iterator[tuple[logging.Logger, io.StringIO]]:
    """A logger with a handler that Python's own formatter formats."""
    logger, stream = logging.getLogger("hs.test.protected"), io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    logger.handlers[:], logger.propagate = [handler], False
    yield logger, stream
    logger.handlers.clear()


def test_secrets_are_redacted_with_any_formatter(
    own_logger: tuple[logging.Logger, io.StringIO],
) -> None:
    logger, stream = own_logger
    protect(logger.handlers[0])
    protect(logger.handlers[0])

    logger.warning("the token is syt_YWxpY2U_abc_123")

    assert stream.getvalue() == "WARNING the token is syt_<redacted>\n"


def test_lasting_fault_is_logged_once(own_logger: tuple[logging.Logger, io.StringIO]) -> None:
    logger, stream = own_logger
    protect(logger.handlers[0])

    for attempt in range(20):
        logger.warning("lease %s: %s, retrying in %.1f s", "main", "no disk", 0.5 * attempt)
        try:
            raise OSError("no disk")
        except OSError:
            logger.exception("duty cleanup failed, restarting it in %.1f s", 0.5 * attempt)
    logger.warning("lease %s: %s, retrying in %.1f s", "other", "no disk", 1.0)

    lines = stream.getvalue().splitlines()
    assert len([line for line in lines if line.startswith("Traceback")]) == 1
    assert [line for line in lines if line.startswith(("WARNING", "ERROR"))] == [
        "WARNING lease main: no disk, retrying in 0.0 s",
        "ERROR duty cleanup failed, restarting it in 0.0 s",
        "WARNING lease other: no disk, retrying in 1.0 s",
    ]


def test_fault_is_logged_again_after_a_pause_and_as_a_reminder() -> None:
    quiet = QuietRepeats()

    def is_kept(at_s: float, level: int = logging.WARNING) -> bool:
        record = logging.LogRecord("hs.test", level, "", 1, "no disk", None, None)
        record.created = 1_000_000 + at_s
        return quiet.filter(record)

    assert [is_kept(at_s) for at_s in (0, 1, 119, 240)] == [True, False, False, True]
    assert [at_s for at_s in range(1000, 2000, 10) if is_kept(at_s)] == [1000, 1600]
    assert is_kept(2000, logging.INFO)
    assert is_kept(2000, logging.INFO)
