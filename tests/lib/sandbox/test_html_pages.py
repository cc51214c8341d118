"""Extraction of metadata from HTML pages."""

import random
from collections.abc import AsyncIterator

import msgspec
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from hs.lib.plain_text import one_line
from hs.lib.sandbox.charsets import decode_page
from hs.lib.sandbox.html_pages import read_page
from hs.lib.sandbox.page_facts import READ_PAGE, PageFacts, PageImage, PageJob, encode, read_facts
from hs.lib.sandbox.pool import Sandbox, SandboxFault, SandboxFaultKind
from tests.support.inputs.damage import corrupted_page

SEED = 20_261_124
# The memory that a child may use for small pages, and the number of pages between checks.
MAX_PEAK_BYTES = 200 << 20
CHECK_EVERY = 50
PARSE_TIMEOUT_S = 20.0
MAX_BYTES = 1 << 20


def facts_of(html: str | bytes, charset: str | None = None) -> PageFacts:
    body = html.encode() if isinstance(html, str) else html
    return read_facts(read_page(encode(PageJob(body, charset))))


def test_properties_are_read_by_property_name_or_itemprop() -> None:
    facts = facts_of(
        """<meta property="og:title" content=" A &amp;\n B "><meta name=Description content=c>
        <meta itemprop="image" content="/i.png"><meta property="og:title" content="second">
        <meta property="empty" content=""><meta content="nameless">"""
    )

    assert facts.properties == {"og:title": "A & B", "description": "c", "image": "/i.png"}


def test_navigation_and_scripts_are_not_in_paragraphs() -> None:
    facts = facts_of(
        """<title>T</title><body><nav><p>menu</p></nav><script>var p = "<p>no</p>"</script>
        <h1>Head<em>line</em></h1><p>One<br>two.</p><noscript><p>no</p></noscript>
        <footer><p>foot</p></footer><p> Three. </p>"""
    )

    assert (facts.title, facts.headings) == ("T", ("Headline",))
    assert facts.paragraphs == ("One two.", "Three.")


def test_paragraphs_of_main_element_are_preferred() -> None:
    facts = facts_of("<p>advertisement</p><main><p>story</p></main>")

    assert facts.paragraphs == ("story",)


def test_page_without_paragraphs_yields_its_text() -> None:
    assert facts_of("<div>some</div><div>text</div>").paragraphs == ("some text",)


def test_image_sizes_are_read() -> None:
    facts = facts_of('<img src=a.png width=10 height="20px"><img src=b.png width="100%"><img>')

    assert facts.images == (PageImage("a.png", 10, 20), PageImage("b.png", 0, 0))


def test_links_and_base_url_are_read() -> None:
    facts = facts_of('<base href="/b/"><link rel="Icon" href=" i.png "><link rel=x>')

    assert (facts.base_url, facts.links) == ("/b/", (("icon", "", "i.png"),))


def test_title_in_svg_is_ignored() -> None:
    facts = facts_of("<head><title>Page</title></head><svg><title>Drawing</title></svg>")

    assert facts.title == "Page"


def test_empty_page_has_no_facts() -> None:
    assert facts_of("") == PageFacts()


@pytest.mark.parametrize(
    ("encoding", "declared", "html"),
    [
        ("utf-8", None, "<title>Grüße</title>"),
        ("utf-8-sig", "latin-1", "<title>Grüße</title>"),
        ("utf-16", None, "<title>Grüße</title>"),
        ("windows-1252", None, "<title>Grüße</title>"),
        ("iso-8859-1", "ISO-8859-1", "<title>Grüße</title>"),
        ("windows-1252", "iso-8859-1", "<title>“Grüße”</title>"),
        ("koi8-r", "koi8-r", "<title>Привет</title>"),
        ("shift_jis", None, "<meta charset=shift_jis><title>こんにちは</title>"),
        (
            "euc_jp",
            None,
            '<meta http-equiv=x content="text/html; charset=EUC-JP"><title>日</title>',
        ),
        ("big5", None, "<meta charset='Big5'><title>你好</title>"),
        ("gb18030", "gb2312", "<title>你好€</title>"),
        ("windows-1251", None, '<?xml version="1.0" encoding="windows-1251"?><title>Да</title>'),
        ("utf-8", "no-such-charset", "<title>Grüße</title>"),
        ("utf-8", None, "<meta charset=utf-16><title>Grüße</title>"),
    ],
)
def test_character_set_is_detected(encoding: str, declared: str | None, html: str) -> None:
    title = html.partition("<title>")[2].partition("</title>")[0]

    assert facts_of(html.encode(encoding), declared).title == title


@pytest.mark.parametrize("name", ["zip", "hex", "rot13", "idna", "punycode", "unicode_escape"])
def test_codecs_that_are_not_character_sets_are_ignored(name: str) -> None:
    assert decode_page(b"\\u0041 text", name) == "\\u0041 text"


@given(st.binary(max_size=300), st.none() | st.text(max_size=20))
def test_any_bytes_can_be_decoded(body: bytes, charset: str | None) -> None:
    decode_page(body, charset)


def test_one_line_removes_control_characters() -> None:
    text = "a\u202e\n b\x00 \u200d👨\u200d👩\ud800"

    assert one_line(text, 100) == "a b \u200d👨\u200d👩"
    assert one_line("x" * 50, 10) == "x" * 10


# Corrupted pages, in the sandbox


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    pool = Sandbox(children=1)
    yield pool
    with trio.CancelScope(shield=True):
        await pool.aclose()


async def peak_bytes(sandbox: Sandbox) -> int:
    """Return the peak memory of the sandbox process in bytes."""
    result = await sandbox.run(
        "tests.support.sandboxed:peak_memory", b"", timeout_s=PARSE_TIMEOUT_S, max_bytes=100
    )
    return int(result)


async def read_corrupted(sandbox: Sandbox, count: int, seed: int) -> None:
    rng = random.Random(seed)
    for number in range(count):
        if number % CHECK_EVERY == CHECK_EVERY - 1:
            assert await peak_bytes(sandbox) < MAX_PEAK_BYTES
        page = corrupted_page(rng)
        charset = rng.choice(
            [None, "utf-8", "utf-16", "big5", "shift_jis", "x\ud7ff", "iso-2022-jp"]
        )
        job = encode(PageJob(page, charset))
        try:
            read_facts(
                await sandbox.run(READ_PAGE, job, timeout_s=PARSE_TIMEOUT_S, max_bytes=MAX_BYTES)
            )
        except (SandboxFault, msgspec.DecodeError) as fault:
            pytest.fail(f"page {number} of seed {seed}: {fault!r}\n{page!r}")


async def test_corrupted_pages_are_parsed(sandbox: Sandbox) -> None:
    await read_corrupted(sandbox, 200, SEED)


@pytest.mark.long
async def test_thousands_of_corrupted_pages_are_parsed(sandbox: Sandbox) -> None:
    await read_corrupted(sandbox, 10_000, random.SystemRandom().randrange(10**9))


@pytest.mark.parametrize(
    "page",
    [b"<div>" * 400_000, b"<a " + b" ".join(b"a%d=1" % n for n in range(200_000)) + b">"],
    ids=["deep", "attributes"],
)
async def test_page_that_takes_too_long_is_aborted(sandbox: Sandbox, page: bytes) -> None:
    job = encode(PageJob(page))

    with pytest.raises(SandboxFault) as fault:
        await sandbox.run(READ_PAGE, job, timeout_s=1, max_bytes=MAX_BYTES)

    assert fault.value.kind in (SandboxFaultKind.TIMED_OUT, SandboxFaultKind.CRASHED)
    after = await sandbox.run(
        READ_PAGE,
        encode(PageJob(b"<title>a</title>")),
        timeout_s=PARSE_TIMEOUT_S,
        max_bytes=MAX_BYTES,
    )
    assert read_facts(after).title == "a"
