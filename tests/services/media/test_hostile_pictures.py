"""Damaged and malicious pictures: nothing crashes the server or exceeds the limits."""

import random
import struct
import zlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from PIL import Image

from hs.lib.sandbox.picture_jobs import DRAW, PictureJob, ThumbnailBox, encode, read_report
from hs.lib.sandbox.pool import Sandbox, SandboxFault, SandboxFaultKind
from tests.support.inputs.damage import damaged, good_archives, good_pictures

SEED = 20_261_124
FEW, MANY = 200, 10_000
MEMORY_BYTES = 512 << 20
# Memory that a sandbox process may use for small pictures, however damaged.
MAX_USUAL_BYTES = 200 << 20
CHECK_MEMORY_EVERY = 50
MAX_PIXELS = 4 << 20
LIMIT_S = 60.0
BOXES = (
    ThumbnailBox(32, 32, "crop"),
    ThumbnailBox(320, 240, "scale"),
    ThumbnailBox(64, 64, "scale", is_animated=True),
)


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    pool = Sandbox(children=2, memory_bytes=MEMORY_BYTES)
    yield pool
    await pool.aclose()


async def process_damaged(
    sandbox: Sandbox, folder: Path, count: int
) -> dict[SandboxFaultKind | None, int]:
    """Generate thumbnails of damaged pictures and archives; return the number of each outcome."""
    rng = random.Random(SEED)
    contents = [*good_pictures(rng), *good_archives(rng)]
    path = folder / "picture"
    outcomes: dict[SandboxFaultKind | None, int] = {}
    for number in range(1, count + 1):
        path.write_bytes(damaged(rng, contents))
        outcome = await outcome_of(sandbox, path)
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
        if number % CHECK_MEMORY_EVERY == 0:
            # Checked repeatedly: processes are replaced, and their peaks are lost.
            assert await peak_bytes(sandbox) < MAX_USUAL_BYTES
    return outcomes


async def outcome_of(sandbox: Sandbox, path: Path) -> SandboxFaultKind | None:
    """Generate thumbnails; return the kind of fault, or None if there was none."""
    job = encode(PictureJob(str(path), MAX_PIXELS, BOXES))
    try:
        answer = await sandbox.run(DRAW, job, timeout_s=LIMIT_S, max_bytes=16 << 20)
    except SandboxFault as fault:
        return fault.kind
    read_report(answer)
    return None


async def peak_bytes(sandbox: Sandbox) -> int:
    """Return the peak memory usage of a sandbox process."""
    answer = await sandbox.run(
        "tests.support.sandboxed:peak_memory", b"", timeout_s=LIMIT_S, max_bytes=100
    )
    return int(answer)


@pytest.mark.parametrize("count", [FEW, pytest.param(MANY, marks=pytest.mark.long)])
async def test_damaged_pictures_do_not_crash_the_sandbox(
    sandbox: Sandbox, tmp_path: Path, count: int
) -> None:
    outcomes = await process_damaged(sandbox, tmp_path, count)

    assert sum(outcomes.values()) == count
    assert outcomes.keys() <= {None, SandboxFaultKind.FAILED, SandboxFaultKind.MEMORY}
    assert len(outcomes) > 1


def chunk(kind: bytes, content: bytes) -> bytes:
    """Return a chunk of a PNG file."""
    body = kind + content
    return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))


def png(width: int, height: int, *parts: bytes, rows: bytes = b"") -> bytes:
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    packed = zlib.compress(rows, 9)
    parts = (chunk(b"IHDR", head), *parts, chunk(b"IDAT", packed), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def gif_bomb() -> bytes:
    """Return a small GIF with very many large frames."""
    head = b"GIF89a" + struct.pack("<HHBBB", 2000, 2000, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff"
    frame = b"\x2c" + struct.pack("<HHHHB", 0, 0, 2000, 2000, 0) + b"\x02\x02\x4c\x01\0"
    return head + frame * 20_000 + b"\x3b"


def large_text() -> bytes:
    text = b"a\0\0" + zlib.compress(b"x" * (100 << 20), 1)
    return png(10, 10, chunk(b"zTXt", text), rows=b"\0" * 310)


def large_profile() -> bytes:
    profile = b"p\0\0" + zlib.compress(b"x" * (100 << 20), 1)
    return png(10, 10, chunk(b"iCCP", profile), rows=b"\0" * 310)


BOMBS: dict[str, Callable[[], bytes]] = {
    "huge size in the header": lambda: png(60_000, 60_000),
    "huge side": lambda: png(2**31 - 1, 1),
    "high compression ratio": lambda: png(2000, 2000, rows=b"\0" * (2000 * 6001)),
    "large text": large_text,
    "large profile": large_profile,
    "many frames": gif_bomb,
}


@pytest.mark.parametrize("name", BOMBS)
async def test_decompression_bombs_stay_within_the_limits(
    sandbox: Sandbox, tmp_path: Path, name: str
) -> None:
    path = tmp_path / "bomb"
    path.write_bytes(BOMBS[name]())
    good = tmp_path / "good.png"
    Image.new("RGB", (50, 50)).save(good)

    outcome = await outcome_of(sandbox, path)

    assert outcome in (
        None,
        SandboxFaultKind.FAILED,
        SandboxFaultKind.MEMORY,
        SandboxFaultKind.TIMED_OUT,
    )
    assert await outcome_of(sandbox, good) is None
    assert await peak_bytes(sandbox) < MEMORY_BYTES
