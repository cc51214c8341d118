"""Settings of URL previews."""

import fnmatch
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import attrs

from hs.settings.fields import setting, sub_block
from hs.settings.kinds import (
    BOOLEAN,
    NETWORKS,
    PATH,
    SIZE,
    STRING,
    STRINGS,
    ConfigLocation,
    Kind,
    list_of,
    map_of,
    optional,
)

URL_PARTS = (
    *("scheme", "netloc", "hostname", "host", "port", "path", "params", "query", "fragment"),
    *("username", "password"),
)


@attrs.frozen
class UrlRule:
    """A rule for URLs that are not fetched: each named part must match its pattern."""

    patterns: Mapping[str, re.Pattern[str]] = MappingProxyType({})


def _read_rule(value: Any, at: ConfigLocation) -> UrlRule:
    patterns = {}
    for part, text in map_of(STRING).read(value, at).items():
        part_at = at.child(part)
        if part not in URL_PARTS:
            part_at.reject(f"{part!r} is not a part of a URL", f"use one of {', '.join(URL_PARTS)}")
        try:
            patterns[part] = re.compile(text if text.startswith("^") else fnmatch.translate(text))
        except re.error as error:
            part_at.reject(f"not a regular expression: {error}", "correct the pattern")
    if not patterns:
        at.reject("a rule without parts would match every URL", "name at least one part")
    return UrlRule(MappingProxyType(patterns))


URL_RULES = list_of(Kind("map of parts to patterns", _read_rule, {"type": "object"}))


@attrs.frozen(kw_only=True)
class OembedSettings:
    """Providers that describe their pages by oEmbed."""

    disable_default_providers: bool = setting(
        BOOLEAN, False, "Do not use the built-in oEmbed providers."
    )
    additional_providers: tuple[Path, ...] = setting(
        list_of(PATH),
        (),
        "Files in the format of https://oembed.com/providers.json.",
        shown=[],
    )


@attrs.frozen(kw_only=True)
class PreviewSettings:
    """URL previews; the two lists of networks work like those of `ip_range_blacklist`."""

    url_preview_enabled: bool = setting(BOOLEAN, False, "Generate previews of URLs in messages.")
    url_preview_ip_range_blacklist: tuple[str, ...] | None = setting(
        optional(NETWORKS),
        None,
        "IP networks from which nothing is fetched; `ip_range_blacklist` by default.",
    )
    url_preview_ip_range_whitelist: tuple[str, ...] = setting(
        NETWORKS, (), "Exceptions to `url_preview_ip_range_blacklist`.", shown=[]
    )
    url_preview_url_blacklist: tuple[UrlRule, ...] = setting(
        URL_RULES,
        (),
        "URLs that are not fetched: maps of URL parts to a glob, or to a regular expression if it"
        " begins with `^`. All parts of a map must match.",
        shown=[],
    )
    max_spider_size: int = setting(
        SIZE, 10 * 1024**2, "Maximum size of a fetched page.", shown="10M"
    )
    url_preview_accept_language: tuple[str, ...] = setting(
        STRINGS, ("en",), "Languages requested from sites, most preferred first.", shown=["en"]
    )
    oembed: OembedSettings = sub_block(OembedSettings, "oEmbed providers.")
