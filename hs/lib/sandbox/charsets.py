"""Detection of the character set of HTML and XML pages, and decoding."""

import codecs
import re
from collections.abc import Iterator

# HTML standard, "prescan a byte stream": the declaration must be among the first bytes.
PRESCAN_BYTES = 4096

_BOMS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_META = re.compile(
    rb"<meta[^>]{0,200}?charset\s{0,9}=\s{0,9}[\"']?\s{0,9}([a-z0-9_.:-]{1,40})", re.IGNORECASE
)
_XML = re.compile(
    rb"^\s{0,9}<\?xml[^>]{0,200}?encoding\s{0,9}=\s{0,9}[\"']([a-z0-9_.:-]{1,40})", re.IGNORECASE
)
# Names of character sets. Python has other codecs too, such as base64 and zlib, which a page must
# not be able to choose.
_KNOWN = re.compile(
    r"utf-?(8|16)(-[bl]e)?|us-ascii|ascii|(iso-?8859|windows|cp|latin|mac|koi8|big5|euc|gb|hz"
    r"|shift|sjis|tis|iso-?2022|johab|ptcp|ms|x-sjis|x-mac|ks_c)[a-z0-9_:-]*"
)
# Browsers treat these names as others (Encoding standard, labels).
_ALIASES = {"iso-8859-1": "windows-1252", "latin-1": "windows-1252", "latin1": "windows-1252"}
_ALIASES |= {
    "us-ascii": "windows-1252",
    "ascii": "windows-1252",
    "gb2312": "gb18030",
    "gbk": "gb18030",
}
_ALIASES |= {
    "x-sjis": "shift_jis",
    "ks_c_5601-1987": "cp949",
    "euc-kr": "cp949",
    "tis-620": "cp874",
}


def decode_page(body: bytes, declared: str | None) -> str:
    """Decode a page; invalid bytes become U+FFFD.

    The order is: byte order mark, `declared` in the HTTP header, declaration in the page, UTF-8,
    windows-1252.
    """
    for mark, charset in _BOMS:
        if body.startswith(mark):
            return body[len(mark) :].decode(charset, "replace")
    for name in _candidates(body, declared):
        if (codec := _codec(name)) is not None:
            return body.decode(codec, "replace")
    try:
        return body.decode("utf-8")
    except UnicodeDecodeError:
        return body.decode("windows-1252", "replace")


def _candidates(body: bytes, declared: str | None) -> Iterator[str]:
    if declared:
        yield declared
    head = body[:PRESCAN_BYTES]
    for pattern in (_META, _XML):
        if match := pattern.search(head):
            name = match[1].decode("ascii").lower()
            # A page whose declaration can be read as ASCII is not in UTF-16.
            yield "utf-8" if name.startswith("utf-16") else name


def _codec(name: str) -> str | None:
    name = name.strip(" \"'").lower()
    name = _ALIASES.get(name, name)
    if not _KNOWN.fullmatch(name):
        return None
    try:
        return codecs.lookup(name).name
    except LookupError:
        return None
