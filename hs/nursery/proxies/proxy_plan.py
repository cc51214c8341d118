"""Where a reverse proxy sends each request: pools of processes, and rules from paths to pools.

Rules:

- Every process answers every request of the resources of its listener, so a rule decides about
  costs and never about correctness. The exception is media, where only some processes serve it.
- Requests of one client go to one process (by the access token), so that caches are used; requests
  of another server too (by the origin that it states).
- Requests about a room may go to one process instead, whoever sends them: then each process keeps
  other rooms in memory.
- Where a stream has one writer, and that serves clients, requests that write the stream go to it.
- Application services may have processes of their own, so that a busy bridge does not delay users.
- Patterns are in the common part of the regular expressions of Python, PCRE and RE2.
"""

import enum
import re
from collections.abc import Mapping
from typing import Final

import attrs

from hs.settings.errors import Problem, SettingsError
from hs.settings.sections.appservices import KEY
from hs.settings.sections.listeners import EVERYWHERE, Listener
from hs.settings.sections.workers import MAIN
from hs.settings.settings import Settings

CLIENT_PATHS: Final = (
    r"^/(_matrix/(client|media|consent|static)|_synapse/client|\.well-known/matrix)(/|$)"
)
MEDIA_PATHS: Final = r"^/_matrix/(media|client/v1/media|federation/v1/media)/"
FEDERATION_PATHS: Final = r"^/_matrix/(federation|key)/"
TRANSACTION_PATHS: Final = r"^/_matrix/federation/v1/send/"
SYNC_PATHS: Final = (r"^/_matrix/client/(r0|v3)/sync$",)
OTHER_SYNC_PATHS: Final = (
    r"^/_matrix/client/(api/v1|r0|v3)/events$",
    r"^/_matrix/client/(v4|unstable/org\.matrix\.simplified_msc3575)/sync$",
)
INITIAL_SYNC_PATHS: Final = (
    r"^/_matrix/client/(api/v1|r0|v3)/initialSync$",
    r"^/_matrix/client/(api/v1|r0|v3)/rooms/[^/]+/initialSync$",
)
LOGIN_PATHS: Final = (
    r"^/_matrix/client/(api/v1|r0|v3|unstable)/login$",
    r"^/_matrix/client/(r0|v3|unstable)/register$",
    r"^/_matrix/client/(r0|v3|unstable)/register/available$",
)
WRITER_PATHS: Final[Mapping[str, str]] = {
    "typing": r"^/_matrix/client/(api/v1|r0|v3|unstable)/rooms/[^/]+/typing/",
    "receipts": r"^/_matrix/client/(r0|v3|unstable)/rooms/[^/]+/(receipt/|read_markers$)",
    "to_device": r"^/_matrix/client/(r0|v3|unstable)/sendToDevice/",
    "account_data": r"^/_matrix/client/(r0|v3|unstable)/user/[^/]+/.*(tags|account_data)",
    "presence": r"^/_matrix/client/(api/v1|r0|v3|unstable)/presence/",
    "push_rules": r"^/_matrix/client/(api/v1|r0|v3|unstable)/pushrules/",
    "device_lists": r"^/_matrix/client/(r0|v3|unstable)/keys/(upload|device_signing|signatures)",
}
"""The paths by which clients write a stream."""
ROOM_PATHS: Final = r"^/_matrix/client/(api/v1|r0|v1|v3|unstable)/(rooms|join|knock)/"
_PLAIN_TOKEN: Final = re.compile(r"[A-Za-z0-9._+/=:-]+", re.ASCII)
_INTERNAL: Final = frozenset(("replication", "metrics", "health"))


class Affinity(enum.Enum):
    """What decides which process of a pool gets a request."""

    CLIENT = "the access token"
    ORIGIN = "the server that sends"
    ROOM = "the room in the path"


@attrs.frozen
class Backend:
    """A process, and where it listens for clients: host and port, or a UNIX socket."""

    name: str
    host: str = ""
    port: int = 0
    path: str = ""

    @property
    def address(self) -> str:
        """Return host and port as proxies write them."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@attrs.frozen(kw_only=True)
class Pool:
    """Processes that share requests."""

    name: str
    backends: tuple[Backend, ...]
    affinity: Affinity = Affinity.CLIENT


@attrs.frozen(kw_only=True)
class ProxyRule:
    """Paths whose requests go to a pool; the first rule that matches counts.

    With `initial`, requests without the query parameter `since` go to that pool instead. With
    `tokens` the rule is only about requests that have one of these access tokens.
    """

    subject: str
    paths: tuple[str, ...]
    pool: Pool
    initial: Pool | None = None
    tokens: tuple[str, ...] = ()


@attrs.frozen(kw_only=True)
class ProxyPlan:
    """The rules of a reverse proxy, in order."""

    host: str
    rules: tuple[ProxyRule, ...]
    max_upload_bytes: int

    @property
    def pools(self) -> tuple[Pool, ...]:
        """Return all pools."""
        used = [pool for rule in self.rules for pool in (rule.pool, rule.initial)]
        return tuple(dict.fromkeys(pool for pool in used if pool is not None))


def plan_proxy(
    all_settings: Mapping[str, Settings],
    initial_sync: tuple[str, ...] = (),
    login: tuple[str, ...] = (),
    of_rooms: Affinity = Affinity.CLIENT,
    appservices: tuple[str, ...] = (),
) -> ProxyPlan:
    """Plan the rules for processes, main among them.

    `initial_sync`, `login` and `appservices` are processes that serve only initial syncs, only
    registration and log-in, and only application services. `of_rooms` decides where requests about
    a room go.

    Raises: SettingsError, if nothing serves clients, or a name is unknown.
    """
    clients = _serving(all_settings, "client")
    dedicated = {*initial_sync, *login, *appservices}
    _check_names((*initial_sync, *login, *appservices), clients)
    shared = {name: b for name, b in clients.items() if name not in dedicated}
    if not shared:
        raise SettingsError([_nothing_serves("client")])
    workers = {name: backend for name, backend in shared.items() if name != MAIN}
    everybody = _pool("clients", shared)
    rules: list[ProxyRule] = []
    if media := _media(all_settings):
        rules.append(_rule("media", MEDIA_PATHS, _pool("media", media)))
    federation = _serving(all_settings, "federation")
    federation = {name: b for name, b in federation.items() if name not in dedicated}
    if federation:
        pool = _pool("federation", federation, Affinity.ORIGIN)
        rules.append(_rule("other servers", FEDERATION_PATHS, pool))
    if appservices:
        pool = _pool("appservices", {name: clients[name] for name in appservices})
        tokens = _tokens_of(all_settings[MAIN])
        rules.append(attrs.evolve(_rule("application services", CLIENT_PATHS, pool), tokens=tokens))
    initial = _pool("initial_sync", {n: clients[n] for n in initial_sync}) if initial_sync else None
    sync = _pool("sync", workers or shared)
    rules += [
        ProxyRule(subject="sync", paths=SYNC_PATHS, pool=sync, initial=initial),
        ProxyRule(subject="sliding sync, and older forms", paths=OTHER_SYNC_PATHS, pool=sync),
        ProxyRule(subject="old first syncs", paths=INITIAL_SYNC_PATHS, pool=initial or sync),
    ]
    if login:
        pool = _pool("login", {name: clients[name] for name in login})
        rules.append(ProxyRule(subject="registration and log-in", paths=LOGIN_PATHS, pool=pool))
    for stream, path in WRITER_PATHS.items():
        writers = all_settings[MAIN].workers.writers[stream]
        if len(writers) == 1 and writers[0] in workers:
            pool = _pool(f"writer_{stream}", {writers[0]: workers[writers[0]]})
            rules.append(_rule(f"the writer of {stream}", path, pool))
    if of_rooms is not Affinity.CLIENT:
        rules.append(_rule("requests about a room", ROOM_PATHS, _pool("rooms", shared, of_rooms)))
    rules.append(_rule("all other requests of clients", CLIENT_PATHS, everybody))
    main = all_settings[MAIN]
    return ProxyPlan(
        host=str(main.server.server_name),
        rules=tuple(rules),
        max_upload_bytes=main.media.max_upload_size,
    )


def _rule(subject: str, path: str, pool: Pool) -> ProxyRule:
    return ProxyRule(subject=subject, paths=(path,), pool=pool)


def _pool(name: str, backends: Mapping[str, Backend], affinity: Affinity = Affinity.CLIENT) -> Pool:
    return Pool(name=name, backends=tuple(backends.values()), affinity=affinity)


def _media(all_settings: Mapping[str, Settings]) -> dict[str, Backend]:
    """Return the processes that serve media, if others serve clients and no media."""
    serving = {name for name, settings in all_settings.items() if settings.workers.serves_media}
    found = {**_serving(all_settings, "client"), **_serving(all_settings, "media")}
    media = {name: backend for name, backend in found.items() if name in serving}
    return media if media.keys() != found.keys() else {}


def _serving(all_settings: Mapping[str, Settings], resource: str) -> dict[str, Backend]:
    """Return the processes that have a listener with a resource, by name."""
    found: dict[str, Backend] = {}
    for name, settings in all_settings.items():
        for listener in settings.opened_listeners:
            is_public = resource in listener.names and not listener.names <= _INTERNAL
            if is_public and not listener.tls and name not in found:
                found[name] = _backend(name, listener)
    return found


def _backend(name: str, listener: Listener) -> Backend:
    if listener.path is not None:
        return Backend(name, path=str(listener.path))
    addresses = listener.bind_addresses
    is_everywhere = any(address in EVERYWHERE for address in addresses)
    is_local = is_everywhere or "127.0.0.1" in addresses or "localhost" in addresses
    return Backend(name, "127.0.0.1" if is_local else addresses[0], listener.port or 0)


def _check_names(names: tuple[str, ...], clients: Mapping[str, Backend]) -> None:
    unknown = [name for name in names if name not in clients]
    if unknown:
        message = f"{', '.join(unknown)}: no such process serves clients"
        remedy = f"name some of {', '.join(clients)}"
        raise SettingsError([Problem(key="", message=message, remedy=remedy)])


def _tokens_of(settings: Settings) -> tuple[str, ...]:
    """Return the access tokens of application services."""
    tokens = {service.id: service.as_token for service in settings.appservices.registrations}
    unfit = [name for name, token in tokens.items() if not _PLAIN_TOKEN.fullmatch(token)]
    if tokens and not unfit:
        return tuple(tokens.values())
    message, remedy = "no application service is registered", "add its registration file"
    if unfit:
        message = f"as_token of {', '.join(unfit)} has characters that not every proxy can match"
        remedy = "use letters, digits and ._+/=:- for the token"
    raise SettingsError([Problem(key=KEY, message=message, remedy=remedy)])


def _nothing_serves(resource: str) -> Problem:
    return Problem(
        key="listeners",
        message=f"no process has a listener without TLS and with the resource {resource}",
        remedy="add one, which the reverse proxy is to use",
    )
