"""Settings of application services, and the parser of their registration files.

Spec: application service API, Registration.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import attrs

from hs.core.errors import InvalidParam
from hs.core.ids import parse_user_id
from hs.settings.documents import read_documents
from hs.settings.errors import Origin, Problem, SettingsError
from hs.settings.fields import setting
from hs.settings.kinds import (
    BOOLEAN,
    PATH,
    SECRET,
    STRING,
    STRINGS,
    ConfigLocation,
    InvalidSetting,
    Kind,
    list_of,
    optional,
)

KEY: Final = "app_service_config_files"
MAX_PATTERN_CHARS: Final = 1000
MAX_NAMESPACES: Final = 1000
EPHEMERAL_KEYS: Final = (
    "receive_ephemeral",
    "push_ephemeral",
    "de.sorunome.msc2409.push_ephemeral",
)
ENCRYPTION_KEYS: Final = ("org.matrix.msc3202", "msc3202")

# A repetition in a repetition may take exponential time on IDs that users choose.
_NESTED: Final = re.compile(r"[*+}]\)*\)[*+{]")


@attrs.frozen(kw_only=True)
class AppserviceKeys:
    """The keys of the configuration about application services."""

    app_service_config_files: tuple[Path, ...] = setting(
        list_of(PATH), (), "Registration files of application services.", shown=[]
    )
    track_appservice_user_ips: bool = setting(
        BOOLEAN, False, "Record when and from which IP address services use their users' devices."
    )
    use_appservice_legacy_authorization: bool = setting(
        BOOLEAN,
        False,
        "Send `hs_token` to services in the query string too, which old services expect.",
    )


@attrs.frozen
class AppserviceNamespace:
    """A pattern of IDs that a service is interested in, or owns exclusively."""

    pattern: re.Pattern[str]
    exclusive: bool


@attrs.frozen(kw_only=True)
class AppserviceNamespaces:
    """The user IDs, aliases and room IDs that a service is interested in."""

    users: tuple[AppserviceNamespace, ...] = ()
    aliases: tuple[AppserviceNamespace, ...] = ()
    rooms: tuple[AppserviceNamespace, ...] = ()


@attrs.frozen(kw_only=True)
class AppserviceRegistration:
    """The registration of a service; nothing is sent to it if `url` is None."""

    id: str
    url: str | None
    as_token: str = attrs.field(repr=False)
    hs_token: str = attrs.field(repr=False)
    sender_localpart: str
    namespaces: AppserviceNamespaces = AppserviceNamespaces()
    rate_limited: bool = True
    protocols: tuple[str, ...] = ()
    receives_ephemeral: bool = False
    receives_encryption: bool = False


@attrs.frozen(kw_only=True)
class AppserviceSettings:
    """The registered services, and how requests to them and from them are treated."""

    registrations: tuple[AppserviceRegistration, ...] = ()
    track_ips: bool = False
    legacy_authorization: bool = False


def read_appservices(keys: AppserviceKeys, problems: list[Problem]) -> AppserviceSettings:
    """Read the registration files; mistakes are added to `problems`."""
    registrations: list[tuple[Path, AppserviceRegistration]] = []
    for file in keys.app_service_config_files:
        try:
            registrations.append((file, read_registration(file)))
        except SettingsError as error:
            # Problems without a key concern the file, so they name the key that names it.
            problems.extend(
                problem
                if problem.key
                else attrs.evolve(problem, key=KEY, remedy="correct the path or the file")
                for problem in error.problems
            )
    problems.extend(_duplicates(registrations))
    return AppserviceSettings(
        registrations=tuple(registration for _, registration in registrations),
        track_ips=keys.track_appservice_user_ips,
        legacy_authorization=keys.use_appservice_legacy_authorization,
    )


def read_registration(file: Path) -> AppserviceRegistration:
    """Read a registration file.

    Raises: SettingsError, naming file, key and remedy.
    """
    document = read_documents([file])
    values = document.values
    at = ConfigLocation((), file.parent, [], Origin(file=file))
    try:
        if not values:
            at.reject("file contains no registration", f"correct the path in {KEY}")
        return AppserviceRegistration(
            id=_text(values, "id", at),
            url=_url(values, at),
            as_token=_text(values, "as_token", at, SECRET),
            hs_token=_text(values, "hs_token", at, SECRET),
            sender_localpart=_sender(values, at),
            namespaces=_namespaces(values.get("namespaces"), at.child("namespaces")),
            rate_limited=_flag(values, ("rate_limited",), at, default=True),
            protocols=STRINGS.read(values.get("protocols"), at.child("protocols")),
            receives_ephemeral=_flag(values, EPHEMERAL_KEYS, at, default=False),
            receives_encryption=_flag(values, ENCRYPTION_KEYS, at, default=False),
        )
    except InvalidSetting as error:
        line = document.origins.get(error.at.path[0], Origin()) if error.at.path else Origin()
        raise SettingsError(
            [
                Problem(
                    key=error.at.key,
                    message=error.message,
                    remedy=error.remedy,
                    origin=attrs.evolve(line, file=file),
                )
            ]
        ) from None


def _text(
    values: Mapping[str, Any], name: str, at: ConfigLocation, kind: Kind[str] = STRING
) -> str:
    key_at = at.child(name)
    if name not in values:
        key_at.reject("missing", f"add `{name}: …`, see the documentation of the service")
    text = kind.read(values[name], key_at)
    if not text or "\0" in text:
        key_at.reject("must not be empty", f"set the {name} of the service")
    return text


def _url(values: Mapping[str, Any], at: ConfigLocation) -> str | None:
    key_at = at.child("url")
    if "url" not in values:
        key_at.reject("missing", "add the URL of the service, or `url: null` to send nothing to it")
    url = optional(STRING).read(values["url"], key_at)
    if not url:
        return None
    if not _is_base(url):
        key_at.reject(f"{url!r} is not a URL", 'write it like "http://127.0.0.1:29318"')
    return url.rstrip("/")


def _is_base(url: str) -> bool:
    try:
        parts = urlsplit(url)
        is_whole = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
    return is_whole and not parts.query and not parts.fragment


def _sender(values: Mapping[str, Any], at: ConfigLocation) -> str:
    localpart = _text(values, "sender_localpart", at)
    key_at = at.child("sender_localpart")
    if localpart.startswith("@") or ":" in localpart:
        key_at.reject(
            f"{localpart!r} is a full user ID", "write only the part between @ and the colon"
        )
    try:
        parse_user_id(f"@{localpart}:x")
    except InvalidParam:
        key_at.reject(f"{localpart!r} is not a valid localpart", "use a-z, 0-9 and . _ = / + -")
    return localpart


def _namespaces(value: Any, at: ConfigLocation) -> AppserviceNamespaces:
    if value is None:
        return AppserviceNamespaces()
    if not isinstance(value, dict):
        at.reject("expected a map", "it may contain the lists users, aliases and rooms")
    lists = {
        name: _namespace_list(value.get(name), at.child(name))
        for name in ("users", "aliases", "rooms")
    }
    return AppserviceNamespaces(**lists)


def _namespace_list(value: Any, at: ConfigLocation) -> tuple[AppserviceNamespace, ...]:
    if value is None:
        return ()
    if not isinstance(value, list):
        at.reject("expected a list", "begin each entry with `- exclusive: …`")
    if len(value) > MAX_NAMESPACES:
        at.reject(
            f"more than {MAX_NAMESPACES} namespaces", "combine some of them with | in one regex"
        )
    return tuple(_namespace(entry, at.child(str(n))) for n, entry in enumerate(value))


def _namespace(value: Any, at: ConfigLocation) -> AppserviceNamespace:
    if not isinstance(value, dict) or "regex" not in value:
        at.reject("expected a map with `regex`", 'write `exclusive: true` and `regex: "@_irc_.*"`')
    pattern = STRING.read(value["regex"], at.child("regex"))
    exclusive = BOOLEAN.read(value.get("exclusive", False), at.child("exclusive"))
    return AppserviceNamespace(_compiled(pattern, at.child("regex")), exclusive)


def _compiled(pattern: str, at: ConfigLocation) -> re.Pattern[str]:
    if len(pattern) > MAX_PATTERN_CHARS:
        at.reject(f"regex is longer than {MAX_PATTERN_CHARS} characters", "use several namespaces")
    if _NESTED.search(pattern) is not None:
        at.reject(
            f"{pattern!r} contains a nested repetition, which may take exponential time",
            "use a single repetition, such as (a|b)* or .*",
        )
    try:
        return re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        at.reject(f"{pattern!r} is not a regular expression: {error}", "correct the expression")


def _flag(
    values: Mapping[str, Any], names: Iterable[str], at: ConfigLocation, *, default: bool
) -> bool:
    # Registration files contain null for flags that are not set.
    flags = [
        BOOLEAN.read(values[name], at.child(name)) for name in names if values.get(name) is not None
    ]
    return any(flags) if flags else default


def _duplicates(registrations: list[tuple[Path, AppserviceRegistration]]) -> list[Problem]:
    problems: list[Problem] = []
    for name in ("id", "as_token", "hs_token"):
        owners: dict[str, Path] = {}
        for file, registration in registrations:
            owner = owners.setdefault(getattr(registration, name), file)
            if owner is not file:
                problems.append(
                    Problem(
                        key=name,
                        message=f"{owner} has the same {name}",
                        remedy=f"use a different {name} for each service",
                        origin=Origin(file=file),
                    )
                )
    return problems
