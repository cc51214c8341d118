"""The target of a request: strict parsing of its URL, and the forward proxy for it.

URLs come from users, and parsers disagree about unusual ones: one component may check one host
while another connects to a second. Therefore only URLs with a single reading are accepted:

- printable ASCII without backslashes, http or https, no credentials;
- a host that is a plain name, an IPv4 address in dotted decimal form or an IPv6 address in brackets
  without a zone.
"""

import re
from collections.abc import Mapping
from urllib.parse import urljoin, urlsplit

import attrs

from hs.lib.http_client import HttpBlocked
from hs.lib.http_client.addresses import Address, parse_address, parse_networks

MAX_URL_CHARS = 8192

_PORTS = {"http": 80, "https": 443}
_HOST = re.compile(r"[a-z0-9_](?:[a-z0-9_.-]*[a-z0-9_])?\.?")
_LABEL_IS_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_URL_TEXT = re.compile(r"[!-~]+")


@attrs.frozen
class RequestTarget:
    """A URL that is allowed, as far as its text shows; `host` is without brackets.

    `literal` is the address if the host is one.
    """

    url: str
    scheme: str
    host: str
    port: int
    literal: Address | None

    @property
    def origin(self) -> tuple[str, str, int]:
        """Scheme, host and port."""
        return self.scheme, self.host, self.port

    @property
    def origin_text(self) -> str:
        """Scheme and host, for messages."""
        return f"{self.scheme}://{self.host}"


def parse_target(url: str) -> RequestTarget:
    """Parse a URL.

    Raises: HttpBlocked.
    """
    if len(url) > MAX_URL_CHARS:
        raise HttpBlocked("the URL is too long")
    if not _URL_TEXT.fullmatch(url) or "\\" in url:
        raise HttpBlocked("the URL contains characters that must be percent-encoded")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise HttpBlocked(f"invalid URL: {error}") from None
    if parts.scheme not in _PORTS:
        raise HttpBlocked(f"scheme {parts.scheme!r:.20} is not allowed, only http and https are")
    if "@" in parts.netloc:
        raise HttpBlocked("a URL with a user name or password is not allowed")
    if port == 0:
        raise HttpBlocked("port 0 is not allowed")
    host = parts.hostname or ""
    literal = _literal(host, parts.netloc)
    if port is None:
        port = _PORTS[parts.scheme]
    return RequestTarget(parts._replace(fragment="").geturl(), parts.scheme, host, port, literal)


def parse_location(base: RequestTarget, location: str) -> RequestTarget:
    """Parse the `Location` of a redirect, relative to the URL that was requested.

    Raises: HttpBlocked.
    """
    return parse_target(urljoin(base.url, escape_url(location.strip())))


def escape_url(url: str) -> str:
    """Return a URL with its host in IDNA form and other characters percent-encoded, if need be.

    Raises: HttpBlocked.
    """
    if _URL_TEXT.fullmatch(url):
        return url
    try:
        parts = urlsplit(url)
        host, netloc = parts.hostname or "", parts.netloc
        if not host.isascii():
            netloc = netloc.lower().replace(host, host.encode("idna").decode("ascii"))
        return "".join(
            char if "!" <= char <= "~" else "".join(f"%{byte:02X}" for byte in char.encode())
            for char in parts._replace(netloc=netloc).geturl()
        )
    except (ValueError, UnicodeError) as error:
        raise HttpBlocked(f"invalid URL: {error}") from None


def _literal(host: str, netloc: str) -> Address | None:
    """Return the address if the host is one, or None if it is a name.

    Raises: HttpBlocked, for a host that only some parsers would read as an address.
    """
    if "[" in netloc or ":" in host:
        address = parse_address(host)
        # A zone names a network interface of this machine; no URL from outside may choose it.
        if address is None or address.version != 6 or "%" in host:
            raise HttpBlocked(f"{host!r:.60} is not an IPv6 address")
        return address
    if not _HOST.fullmatch(host) or len(host) > 255 or ".." in host:
        raise HttpBlocked(f"{host!r:.60} is not a host name")
    if _LABEL_IS_NUMBER.fullmatch(host.rstrip(".").rpartition(".")[2]):
        # The system's resolver would read 2130706433, 0177.0.0.1, 0x7f.1 or 127.1 as an address.
        address = parse_address(host)
        if address is None:
            raise HttpBlocked(f"{host!r:.60} is not an IPv4 address in dotted decimal form")
        return address
    return None


@attrs.frozen
class Proxies:
    """The forward proxies; `bypass` lists hosts, domains and networks to be reached directly."""

    http: str | None = None
    https: str | None = None
    bypass: tuple[str, ...] = ()

    def proxy_for(self, target: RequestTarget) -> str | None:
        """Return the URL of the proxy for a request, or None."""
        proxy = self.http if target.scheme == "http" else self.https
        if proxy is None or any(_matches(pattern, target) for pattern in self.bypass):
            return None
        return proxy if "://" in proxy else f"http://{proxy}"


NO_PROXIES = Proxies()


def proxies_from_environment(environ: Mapping[str, str]) -> Proxies:
    """Read the conventional environment variables; those in lower case take precedence.

    HTTP_PROXY in upper case is ignored: a CGI server would set it from a request's header.
    """

    def read(*names: str) -> str | None:
        return next((environ[name] for name in names if environ.get(name)), None)

    bypass = read("no_proxy", "NO_PROXY") or ""
    return Proxies(
        http=read("http_proxy"),
        https=read("https_proxy", "HTTPS_PROXY"),
        bypass=tuple(part.strip() for part in bypass.split(",") if part.strip()),
    )


def _matches(pattern: str, target: RequestTarget) -> bool:
    pattern = pattern.lower()
    if pattern == "*":
        return True
    if target.literal is not None and "/" in pattern:
        try:
            (network,) = parse_networks([pattern])
        except ValueError:
            return False
        return network.version == target.literal.version and target.literal in network
    name, _, port = pattern.partition(":") if pattern.count(":") == 1 else (pattern, "", "")
    name = name.strip("[]").lstrip("*").lstrip(".")
    host = target.host.rstrip(".")
    return (not port or port == str(target.port)) and (host == name or host.endswith(f".{name}"))
