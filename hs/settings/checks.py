"""What must hold between settings: contradictions are refused before anything starts."""

import ipaddress
import ssl
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import attrs

from hs.settings.account_checks import check_accounts
from hs.settings.sections.listeners import LOOPBACK, Listener
from hs.settings.sections.workers import MAIN
from hs.settings.settings import Settings

Refuse = Callable[[str, str, str], None]
Warn = Callable[[str, str], None]


def check_settings(settings: Settings, refuse: Refuse, warn: Warn) -> None:
    """Report every contradiction."""
    _check_name(settings, refuse)
    _check_address(settings, refuse)
    _check_listeners(settings, refuse)
    _check_processes(settings, refuse)
    _check_this_worker(settings, refuse)
    _check_main(settings, warn)
    _check_tls(settings, refuse)
    _check_metrics(settings, warn)
    _check_registration(settings, refuse)
    _check_sessions(settings, refuse)
    check_accounts(settings, refuse)
    _check_certificates(settings, warn)


def _check_name(settings: Settings, refuse: Refuse) -> None:
    if not settings.server.server_name:
        refuse("server_name", "missing", "add `server_name: example.org`, the name of your domain")


def _check_address(settings: Settings, refuse: Refuse) -> None:
    address = settings.server.public_baseurl
    if address is None:
        return
    try:
        parts = urlsplit(address)
        is_usable = parts.scheme in ("http", "https") and bool(parts.hostname)
        is_usable = is_usable and not parts.query and not parts.fragment
    except ValueError:
        is_usable = False
    if not is_usable:
        refuse(
            "public_baseurl",
            f"{address!r} is not an address clients could use",
            "write it like https://matrix.example.org/",
        )


def _check_listeners(settings: Settings, refuse: Refuse) -> None:
    taken: dict[tuple[str, int], int] = {}
    for number, listener in enumerate(settings.listeners):
        # The system gives each listener on port 0 one of its own.
        places = [(one, listener.port) for one in listener.bind_addresses if listener.port]
        for address, port in places:
            first = taken.setdefault((address, port), number)
            if first != number:
                refuse(
                    f"listeners.{number}",
                    f"port {port} of {address} is listeners.{first}'s already",
                    "give it another port, or put its resources into that listener",
                )
                break


def _check_processes(settings: Settings, refuse: Refuse) -> None:
    workers = settings.workers
    if workers.is_main and not workers.others:
        return
    reason = (
        f"this is the worker {workers.name}"
        if not workers.is_main
        else f"there are workers ({', '.join(sorted(workers.others))})"
    )
    if settings.database.is_sqlite:
        refuse(
            "database.name",
            f"{reason}, and several processes cannot share SQLite",
            "use PostgreSQL: `database: {name: psycopg2, args: {…}}`",
        )
    if not settings.redis.enabled:
        refuse(
            "redis.enabled",
            f"{reason}, and processes talk to each other through Redis",
            "install Redis and set `redis: {enabled: true}` in the shared file",
        )
    for stream, names in workers.writers.items():
        for name in names:
            if name != MAIN and name not in workers.instances:
                refuse(
                    "instance_map",
                    f"{name} writes {stream} but has no address",
                    f"add `{name}: {{host: …, port: …}}`, its replication listener",
                )


def _check_this_worker(settings: Settings, refuse: Refuse) -> None:
    workers = settings.workers
    if workers.is_main:
        return
    if MAIN not in workers.instances:
        refuse(
            "instance_map",
            "this worker is not told where the main process is",
            "add `main: {host: …, port: …}`, the main process's replication listener",
        )
    written = [stream for stream in workers.writers if workers.writes(stream)]
    if written and not _offers(settings, "replication"):
        refuse(
            "worker_listeners",
            f"{workers.name} writes {', '.join(written)} and must be reachable by the others",
            "add a listener with `resources: [{names: [replication]}]`",
        )


def _offers(settings: Settings, resource: str) -> bool:
    return any(resource in listener.names for listener in settings.listeners)


def _check_main(settings: Settings, warn: Warn) -> None:
    workers = settings.workers
    if workers.is_main and workers.others and not _offers(settings, "replication"):
        warn(
            "listeners",
            "no listener has the resource replication, so workers cannot reach the main process",
        )


def _check_tls(settings: Settings, refuse: Refuse) -> None:
    listener = next((one for one in settings.listeners if one.tls), None)
    if listener is None:
        return
    paths: list[Path] = []
    for key in ("tls_certificate_path", "tls_private_key_path"):
        path: Path | None = getattr(settings.tls, key)
        if path is None:
            refuse(key, f"missing, but {listener.label} has tls", f"add {key}")
        elif not path.exists():
            refuse(key, f"{path} does not exist", "correct the path")
        else:
            paths.append(path)
    if len(paths) == 2:
        certificate, private = paths
        _check_pair(certificate, private, refuse)


def _check_pair(certificate: Path, key: Path, refuse: Refuse) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        # An empty password, for else one would be asked for at the terminal.
        context.load_cert_chain(certificate, key, password="")
    except OSError as error:
        # Python does not tell which file it could not read.
        reason = error.strerror or str(error)
        refuse(
            "tls_certificate_path",
            f"{certificate} and the key {key} cannot be used: {reason}",
            "both are PEM files that this user can read, the key has no passphrase, and belongs "
            "to the certificate, which comes before those that vouch for it",
        )


def _check_metrics(settings: Settings, warn: Warn) -> None:
    if _offers(settings, "metrics") and not settings.metrics.enable_metrics:
        warn("enable_metrics", "false, so the listener for metrics has nothing to show")


def _check_registration(settings: Settings, refuse: Refuse) -> None:
    registration = settings.registration
    is_open = registration.enable_registration and not (
        registration.registration_requires_token
        or registration.registrations_require_3pid
        or registration.enable_registration_without_verification
    )
    if is_open:
        refuse(
            "enable_registration",
            "anybody could register without proving anything, which spammers will find",
            "set `registration_requires_token: true`, or, knowing this, "
            "`enable_registration_without_verification: true`",
        )


def _check_sessions(settings: Settings, refuse: Refuse) -> None:
    sessions = settings.sessions
    whole = sessions.session_lifetime
    for key in ("nonrefreshable_access_token_lifetime", "refresh_token_lifetime"):
        part = getattr(sessions, key)
        if whole is not None and part is not None and part > whole:
            refuse(key, "longer than session_lifetime", "shorten it, or leave it out")


def _check_certificates(settings: Settings, warn: Warn) -> None:
    if settings.outside.use_insecure_ssl_client_just_for_testing_do_not_use:
        warn(
            "use_insecure_ssl_client_just_for_testing_do_not_use",
            "true, so other servers can pose as anybody; remove it outside of tests",
        )


def guarded(listener: Listener, has_secret: bool, is_allowed: bool, refuse: Refuse) -> Listener:
    """Keep an unprotected replication listener off the network.

    Without a secret, one that asks for no address is bound to this machine alone; one that asks
    for a public address is refused unless that was explicitly allowed.
    """
    if "replication" not in listener.names or has_secret or is_allowed:
        return listener
    if listener.is_open:
        return attrs.evolve(listener, bind_addresses=LOOPBACK, is_open=False)
    for address in listener.bind_addresses:
        if not _is_private(address):
            refuse(
                "worker_replication_secret",
                f"missing, but {listener.label} offers replication on {address}",
                "set a long random secret, or bind that listener to 127.0.0.1, or, if a firewall "
                "guards it, set `unsafe_replication_without_secret: true`",
            )
    return listener


def _is_private(address: str) -> bool:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address == "localhost"
    return parsed.is_private and not parsed.is_unspecified
