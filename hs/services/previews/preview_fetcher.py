"""The fetcher of pages and images for URL previews; every redirect is checked.

URLs come from users, and the HTTP client blocks addresses of private networks. Redirects are
followed here and not by the client, so that the rules of the configuration apply to every URL in
the chain. One deadline covers all redirects.
"""

from collections.abc import Mapping, Sequence

import attrs
import trio

from hs.core.errors import Forbidden, InvalidParam, NotFound
from hs.lib.http_client import HttpBlocked, HttpClient, HttpFault, HttpResponse
from hs.lib.http_client.targets import escape_url, parse_location, parse_target
from hs.services.previews.url_rules import is_blocked
from hs.settings.sections.previews import UrlRule

MAX_REDIRECTS = 8
_REDIRECTS = frozenset((301, 302, 303, 307, 308))


class NotFetched(NotFound):
    """The page cannot be fetched; clients do not learn why.

    The status is 404 and not a gateway error, because reverse proxies may replace such responses
    with their own error pages, which web clients cannot parse.
    """

    def __init__(self, cause: str) -> None:
        super().__init__("The page cannot be fetched")
        self.cause = cause


@attrs.frozen(eq=False)
class PreviewFetcher:
    """The fetcher of pages and images."""

    _http: HttpClient
    _rules: Sequence[UrlRule]
    _languages: Sequence[str]

    def normalized(self, url: str) -> str:
        """Return the normalized form of a URL, after checking the rules.

        Raises: InvalidParam if it cannot be fetched, Forbidden if a rule blocks it.
        """
        url = url.strip()
        try:
            target = parse_target(escape_url(url))
        except HttpBlocked as fault:
            raise InvalidParam(f"The URL cannot be fetched: {fault.message}") from None
        if is_blocked(self._rules, url) or is_blocked(self._rules, target.url):
            raise Forbidden("The URL is blocked by the configuration")
        return target.url

    async def fetch(
        self, url: str, accept: str, *, timeout_s: float, max_bytes: int
    ) -> HttpResponse:
        """Fetch a URL with status 200, after redirects. Raises: NotFetched, and as `normalized`."""
        headers = {"accept": accept, "accept-language": ", ".join(self._languages)}
        deadline = trio.current_time() + timeout_s
        try:
            target = parse_target(self.normalized(url))
            for _ in range(MAX_REDIRECTS + 1):
                answer = await self._get(target.url, headers, deadline, max_bytes)
                location = answer.headers.get("location")
                if answer.status not in _REDIRECTS or location is None:
                    return _check_status(answer)
                target = parse_location(target, location)
                self.normalized(target.url)
        except HttpFault as fault:
            raise NotFetched(fault.message) from fault
        raise NotFetched("too many redirects")

    async def _get(
        self, url: str, headers: Mapping[str, str], deadline: float, max_bytes: int
    ) -> HttpResponse:
        remaining_s = max(deadline - trio.current_time(), 0.001)
        return await self._http.send(
            "GET", url, headers=headers, timeout_s=remaining_s, max_bytes=max_bytes
        )


def content_type_of(answer: HttpResponse) -> tuple[str, str | None]:
    """Return the content type in lower case, and the charset or None."""
    content_type, *parameters = answer.headers.get("content-type", "").split(";")
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "charset":
            return content_type.strip().lower(), value.strip(" \"'") or None
    return content_type.strip().lower(), None


def _check_status(answer: HttpResponse) -> HttpResponse:
    if answer.status != 200:
        raise NotFetched(f"status {answer.status}")
    return answer
