"""Strict parsing of URLs, and the choice of a proxy."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hs.lib.http_client import HttpBlocked
from hs.lib.http_client.targets import (
    Proxies,
    escape_url,
    parse_location,
    parse_target,
    proxies_from_environment,
)

REJECTED = {
    "other schemes": [
        "ftp://example.org/",
        "file:///etc/passwd",
        "gopher://example.org:70/_x",
        "javascript:alert(1)",
        "data:text/html,x",
        "unix:///run/docker.sock",
        "//example.org/",
        "example.org/",
        "",
    ],
    "credentials": [
        "http://user@example.org/",
        "http://user:password@example.org/",
        "http://example.org@127.0.0.1/",
        "http://example.org:80@127.0.0.1/",
    ],
    "spellings of IPv4 that only some parsers accept": [
        "http://2130706433/",
        "http://017700000001/",
        "http://0x7f000001/",
        "http://0177.0.0.1/",
        "http://0x7f.0.0.1/",
        "http://127.1/",
        "http://127.0.1/",
        "http://127.0.0.1./",
        "http://127.0.0.01/",
        "http://1.2.3.4.5/",
        "http://example.org.0x7f/",
        "http://0x0/",
        "http://00/",
        "http://0177.1/",
        "http://127.0.0.0x1/",
        "http://127.0.0.08/",
        "http://2130706433./",
        "http://0x7f000001./",
        "http://4294967296/",
        "http://256.256.256.256/",
    ],
    "odd IPv6": [
        "http://[fe80::1%25eth0]/",
        "http://[fe80::1%eth0]/",
        "http://[::1/",
        "http://::1/",
        "http://[127.0.0.1]/",
        "http://[v1.x]/",
        "http://[::1%251]/",
        "http://[::ffff:127.0.0.1%25lo]/",
        "http://[0x7f::1]/",
        "http://[]/",
    ],
    "odd hosts": [
        "http:///path",
        "http://?x",
        "http://.example.org/",
        "http://example..org/",
        "http://exa%6dple.org/",
        "http://example.org%00.evil.org/",
        "http://example.org\\@127.0.0.1/",
        "http://ex ample.org/",
        "http://example.org:0/",
        "http://example.org:65536/",
        "http://example.org:port/",
        "http://" + "a" * 256 + "/",
        "http://-x-.org-/",
    ],
    "text that breaks a request": [
        "http://example.org/\r\nHost: evil",
        "http://example.org/\x00",
        "http://example.org/ HTTP/1.1",
        "http://example.org/\u00e4",
        "http://example.org/" + "a" * 9000,
    ],
}


@pytest.mark.parametrize("url", [url for urls in REJECTED.values() for url in urls])
def test_unusual_urls_are_rejected(url: str) -> None:
    with pytest.raises(HttpBlocked):
        parse_target(url)


@pytest.mark.parametrize(
    ("url", "host", "port"),
    [
        ("http://example.org", "example.org", 80),
        ("HTTPS://Example.ORG/a?b=c", "example.org", 443),
        ("http://example.org:8080/%2Fa", "example.org", 8080),
        ("http://my_host/", "my_host", 80),
        ("http://example.org./", "example.org.", 80),
        ("http://1.2.3.4/", "1.2.3.4", 80),
        ("http://[2606:4700::1111]:81/", "2606:4700::1111", 81),
        ("http://1password.com/", "1password.com", 80),
    ],
)
def test_common_urls_are_parsed(url: str, host: str, port: int) -> None:
    target = parse_target(url)

    assert (target.host, target.port) == (host, port)


def test_fragment_is_removed() -> None:
    assert parse_target("http://example.org/a?b#c").url == "http://example.org/a?b"


@pytest.mark.parametrize(
    "host",
    [
        "１２７.0.0.1",
        "①②⑦.⓪.⓪.①",
        "127。0。0。1",
        "127｡0｡0｡1",
        "１２７．０．０．１",
        "127.0.0.1\u200b",
    ],
)
def test_unicode_digits_and_dots_are_normalized_to_address(host: str) -> None:
    url = escape_url(f"http://{host}/")

    assert str(parse_target(url).literal) == "127.0.0.1"


def test_unicode_letters_are_normalized_to_name() -> None:
    assert parse_target(escape_url("http://ⓛⓞⓒⓐⓛⓗⓞⓢⓣ/")).host == "localhost"


def test_lone_surrogates_are_rejected() -> None:
    with pytest.raises(HttpBlocked):
        escape_url("http://example.org/\ud800")


def test_non_ascii_characters_and_spaces_are_escaped() -> None:
    assert (
        escape_url("https://Bücher.example/a b?ü") == "https://xn--bcher-kva.example/a%20b?%C3%BC"
    )


@given(st.text(max_size=60))
def test_any_text_is_parsed_or_blocked(text: str) -> None:
    for url in (text, f"http://{text}", f"http://{text}/"):
        try:
            parse_target(escape_url(url))
        except HttpBlocked:
            continue


def test_redirect_may_be_relative_but_not_to_other_scheme() -> None:
    base = parse_target("http://example.org/a/b")

    assert parse_location(base, "../c d").url == "http://example.org/c%20d"
    assert parse_location(base, "//other.org/").host == "other.org"
    with pytest.raises(HttpBlocked):
        parse_location(base, "file:///etc/passwd")


def test_proxy_depends_on_scheme_and_bypass_list() -> None:
    proxies = Proxies("proxy:3128", "https://tls-proxy", ("example.org", ".corp", "10.0.0.0/8"))

    def proxy_for(url: str) -> str | None:
        return proxies.proxy_for(parse_target(url))

    assert proxy_for("http://other.org") == "http://proxy:3128"
    assert proxy_for("https://other.org") == "https://tls-proxy"
    assert proxy_for("https://notexample.org") == "https://tls-proxy"
    assert proxy_for("https://sub.example.org") is None
    assert proxy_for("http://a.corp") is None
    assert proxy_for("http://10.1.2.3") is None
    assert Proxies("p", "p", ("*",)).proxy_for(parse_target("http://a.b")) is None


def test_proxies_are_read_from_environment() -> None:
    environ = {
        "http_proxy": "http://a",
        "HTTPS_PROXY": "http://b",
        "no_proxy": "localhost, .corp",
        "HTTP_PROXY": "http://from-a-header",
    }

    assert proxies_from_environment(environ) == Proxies(
        "http://a", "http://b", ("localhost", ".corp")
    )
    assert proxies_from_environment({"HTTP_PROXY": "http://from-a-header"}) == Proxies()
