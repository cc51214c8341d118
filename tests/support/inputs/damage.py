"""Damaged pictures, archives and pages, as disk errors or attackers produce them."""

import bz2
import gzip
import io
import lzma
import random
import tarfile
import zipfile

from PIL import Image

KINDS = ("PNG", "JPEG", "GIF", "WEBP", "AVIF", "BMP")
# Fragments of pages, some of which are difficult for parsers.
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
    """Return valid pictures in each format, so that damaged ones reach every decoder."""
    pictures = []
    for kind in KINDS:
        picture = Image.frombytes("RGB", (97, 61), rng.randbytes(97 * 61 * 3))
        for options in ({}, {"save_all": True, "append_images": [picture.rotate(90)]}):
            if options and kind not in ("PNG", "GIF", "WEBP"):
                continue
            out = io.BytesIO()
            picture.save(out, kind, **options)
            pictures.append(out.getvalue())
    return pictures


def good_archives(rng: random.Random) -> list[bytes]:
    """Return valid archives in each common format."""
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
    """Return one of the contents, damaged at random."""
    content = bytearray(rng.choice(contents))
    for _ in range(rng.choice((1, 1, 3, 20))):
        offset = rng.randrange(len(content))
        match rng.randrange(5):
            case 0:
                content[offset] ^= 1 << rng.randrange(8)
            case 1:
                del content[offset:]
            case 2:
                content[offset : offset + 4] = rng.choice(
                    (b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\0")
                )
            case 3:
                content[offset:offset] = rng.randbytes(rng.randrange(1, 50))
            case _:
                del content[offset : offset + rng.randrange(1, 50)]
        if not content:
            return b""
    return bytes(content)


def corrupted_page(rng: random.Random) -> bytes:
    """Return a page of tags in random order, with a few bytes replaced."""
    page = bytearray("".join(rng.choices(PIECES, k=rng.randrange(1, 200))).encode())
    for _ in range(rng.randrange(20)):
        offset = rng.randrange(len(page))
        page[offset : offset + rng.randrange(4)] = rng.randbytes(rng.randrange(4))
        if not page:
            break
    return bytes(page)
