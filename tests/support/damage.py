"""Pictures, archives and pages as a bad disk, or a bad person, leaves them."""

import bz2
import gzip
import io
import lzma
import random
import tarfile
import zipfile

from PIL import Image

KINDS = ("PNG", "JPEG", "GIF", "WEBP", "AVIF", "BMP")
# What pages are made of, and what their parsers stumble over.
PIECES = [
    *("<html>", "<head>", "<title>", "</title>", "<body>", "<p>", "</p>"),
    *("<!--", "-->", "<![CDATA["),
    *("<meta property='og:title' content='", "<meta charset=", "'>", '">', "<svg>", "<math>"),
    *("<table>", "<tr>", "<td>", "<a href=", "<img src=", "<script>", "</script", "<style>", "&#x"),
    *("&#1114112;", "&amp", "<template>", "<select>", "<frameset>", "<b><i><p></b></i>", "\x00"),
    *("<noscript>", "<plaintext>", "</br>", "<base href=", "<link rel=icon href=", "é", "\ufeff"),
    *("<?xml encoding='", "<br>", "<form>", "</form>", "<textarea>", "<title>", " ", "x" * 50),
]


def good_pictures(rng: random.Random) -> list[bytes]:
    """Draw some of each kind, so that damage is done to each decoder."""
    found = []
    for kind in KINDS:
        picture = Image.frombytes("RGB", (97, 61), rng.randbytes(97 * 61 * 3))
        for options in ({}, {"save_all": True, "append_images": [picture.rotate(90)]}):
            if options and kind not in ("PNG", "GIF", "WEBP"):
                continue
            out = io.BytesIO()
            picture.save(out, kind, **options)
            found.append(out.getvalue())
    return found


def good_archives(rng: random.Random) -> list[bytes]:
    """Pack some files in each usual way."""
    content = rng.randbytes(2000) + bytes(20_000)
    zipped, tarred = io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(zipped, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("../a.png", content)
        archive.writestr("b/c.txt", "text")
    with tarfile.open(fileobj=tarred, mode="w:gz") as packed:
        entry = tarfile.TarInfo("../../a")
        entry.size = len(content)
        packed.addfile(entry, io.BytesIO(content))
    packers = (gzip.compress, bz2.compress, lzma.compress)
    return [zipped.getvalue(), tarred.getvalue(), *(pack(content) for pack in packers)]


def damaged(rng: random.Random, contents: list[bytes]) -> bytes:
    """Damage one of these in one of the ways of a bad disk, or of a bad person."""
    content = bytearray(rng.choice(contents))
    for _ in range(rng.choice((1, 1, 3, 20))):
        place = rng.randrange(len(content))
        match rng.randrange(5):
            case 0:
                content[place] ^= 1 << rng.randrange(8)
            case 1:
                del content[place:]
            case 2:
                content[place : place + 4] = rng.choice(
                    (b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\0")
                )
            case 3:
                content[place:place] = rng.randbytes(rng.randrange(1, 50))
            case _:
                del content[place : place + rng.randrange(1, 50)]
        if not content:
            return b""
    return bytes(content)


def corrupted_page(rng: random.Random) -> bytes:
    """Write a page of tags in no order, with a few bytes replaced."""
    page = bytearray("".join(rng.choices(PIECES, k=rng.randrange(1, 200))).encode())
    for _ in range(rng.randrange(20)):
        at = rng.randrange(len(page))
        page[at : at + rng.randrange(4)] = rng.randbytes(rng.randrange(4))
        if not page:
            break
    return bytes(page)
