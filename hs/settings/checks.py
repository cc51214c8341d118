"""Checks between settings: contradictions are reported before anything starts."""

import ipaddress
import ssl
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import attrs

from hs.core.errors import InvalidParam, InvalidSigningKey
from hs.core.ids import parse_room_alias
from hs.core.signing.keys import VerifyKey
from hs.settings.account_checks import check_accounts
from hs.settings.sections.connections import MIN_BUFFERED_BYTES
from hs.settings.sections.listeners import LOOPBACK, Listener
from hs.settings.sections.workers import MAIN
from hs.settings.settings import Settings

AddProblem = Callable[[str, str, str], None]
Warn = Callable[[str, str], None]


def check_settings(settings: Settings, add_problem: AddProblem, warn: Warn) -> None:
    """Report every contradiction to `add_problem`, and everything dubious to `warn`."""
    _check_name(settings, add_problem)
    _check_address(settings, add_problem)
    _check_listeners(settings, add_problem)
    _check_processes(settings, add_problem)
    _check_this_worker(settings, add_problem)
    _check_main(settings, warn)
    _check_tls(settings, add_problem)
    _check_connections(settings, add_problem)
    _check_metrics(settings, warn)
    _check_registration(settings, add_problem)
    _check_sessions(settings, add_problem)
    check_accounts(settings, add_problem)
    _check_auto_join_rooms(settings, add_problem, warn)
    _check_certificates(settings, warn)
    _check_authorities(settings, add_problem)
    _check_keys(settings, add_problem)


def _check_name(settings: Settings, add_problem: AddProblem) -> None:
    if settings.server.server_name:
        return
    if settings.workers.is_main:
        remedy = "add `server_name: example.org` with your domain"
    else:
        remedy = "name the shared file before that of the worker: `-c homeserver.yaml -c FILE`"
    add_problem("server_name", "missing", remedy)


def _check_address(settings: Settings, add_problem: AddProblem) -> None:
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
        add_problem(
            "public_baseurl",
            f"{address!r} is not a URL that clients can use",
            "write it like https://matrix.example.org/",
        )


def _check_listeners(settings: Settings, add_problem: AddProblem) -> None:
    taken: list[tuple[str, int | Path, int]] = []
    for number, listener in enumerate(settings.listeners):
        for address, place in sockets_of(listener):
            first = next((row[2] for row in taken if overlap(row[:2], (address, place))), None)
            taken.append((address, place, number))
            if first is None:
                continue
            at = f"port {place} of {address}" if listener.path is None else str(place)
            remedy = (
                f"use another, or move its resources to listeners.{first}"
                if first != number
                else "name it once"
            )
            add_problem(f"listeners.{number}", f"{at} is already used by listeners.{first}", remedy)
            break


def sockets_of(listener: Listener) -> list[tuple[str, int | Path]]:
    """Return the addresses and ports, or the path, that a listener binds."""
    if listener.path is not None:
        return [("", listener.path)]
    # The system assigns a distinct port to every listener with port 0.
    return [(address, listener.port) for address in listener.bind_addresses if listener.port]


def overlap(first: tuple[str, int | Path], second: tuple[str, int | Path]) -> bool:
    """Return whether only one of two sockets can be bound.

    `0.0.0.0` contains all IPv4 addresses, `::` all IPv6 addresses.
    """
    names = [address.replace("localhost", "127.0.0.1") for address in (first[0], second[0])]
    if first[1] != second[1]:
        return False
    try:
        addresses = [ipaddress.ip_address(name) for name in names]
    except ValueError:
        return names[0] == names[1]
    is_same = addresses[0].version == addresses[1].version
    return is_same and (
        addresses[0] == addresses[1] or any(address.is_unspecified for address in addresses)
    )


def _check_processes(settings: Settings, add_problem: AddProblem) -> None:
    workers = settings.workers
    if workers.is_main and not workers.others:
        return
    reason = (
        f"this process is the worker {workers.name}"
        if not workers.is_main
        else f"there are workers ({', '.join(sorted(workers.others))})"
    )
    if settings.database.is_sqlite:
        add_problem(
            "database.name",
            f"{reason}, and several processes cannot share an SQLite database",
            "use PostgreSQL: `database: {name: psycopg2, args: {…}}`",
        )
    if not settings.redis.enabled:
        add_problem(
            "redis.enabled",
            f"{reason}, and processes communicate through Redis",
            "install Redis, and set `redis: {enabled: true}` in the shared file",
        )
    for stream, names in workers.writers.items():
        for name in names:
            if name != MAIN and name not in workers.instances:
                add_problem(
                    "instance_map",
                    f"{name} writes the stream {stream} but has no address",
                    f"add `{name}: {{host: …, port: …}}` with the address of its replication "
                    f"listener",
                )

    for name in workers.peer_processes:
        if name != MAIN and name not in workers.instances:
            add_problem(
                "instance_map",
                f"{name} in outbound_federation_restricted_to has no address",
                f"add `{name}: {{host: …, port: …}}` with the address of its replication listener",
            )


def _check_this_worker(settings: Settings, add_problem: AddProblem) -> None:
    workers = settings.workers
    if workers.is_main:
        return
    if MAIN not in workers.instances:
        add_problem(
            "instance_map",
            "this worker is not told where the main process is reachable",
            "add `main: {host: …, port: …}` with the address of its replication listener",
        )
    reasons = [f"writes {stream}" for stream in workers.writers if workers.writes(stream)]
    if workers.name in workers.peer_processes:
        reasons.append("sends the requests to other servers")
    if reasons and not offers(settings, "replication"):
        add_problem(
            "worker_listeners",
            f"{workers.name} {', '.join(reasons)}, so other processes must be able to reach it",
            "add a listener with `resources: [{names: [replication]}]`",
        )


def offers(settings: Settings, resource: str) -> bool:
    """Return whether a listener of this process serves a resource."""
    return any(resource in listener.names for listener in settings.listeners)


def _check_main(settings: Settings, warn: Warn) -> None:
    workers = settings.workers
    if workers.is_main and workers.others and not offers(settings, "replication"):
        warn(
            "listeners",
            "no listener has the resource `replication`, so workers cannot reach the main process",
        )


def _check_tls(settings: Settings, add_problem: AddProblem) -> None:
    listener = next((listener for listener in settings.listeners if listener.tls), None)
    if listener is None:
        return
    paths: list[Path] = []
    for key in ("tls_certificate_path", "tls_private_key_path"):
        path: Path | None = getattr(settings.tls, key)
        if path is None:
            add_problem(
                key,
                f"missing, but the listener on {listener.label} has `tls: true`",
                f"set {key} to the path of a PEM file",
            )
        elif not path.exists():
            add_problem(key, f"{path} does not exist", "correct the path")
        else:
            paths.append(path)
    if len(paths) == 2:
        certificate, private = paths
        _check_pair(certificate, private, add_problem)


def _check_pair(certificate: Path, key: Path, add_problem: AddProblem) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        # An empty password makes a key with a passphrase fail instead of prompting for it.
        context.load_cert_chain(certificate, key, password="")
    except OSError as error:
        # The error does not say which of the files could not be read.
        reason = error.strerror or str(error)
        add_problem(
            "tls_certificate_path",
            f"cannot use certificate {certificate} with key {key}: {reason}",
            "use PEM files that this user can read, a key without passphrase that belongs to the "
            "certificate, and put the certificate before its intermediate certificates",
        )


def _check_connections(settings: Settings, add_problem: AddProblem) -> None:
    if settings.connections.max_buffered_bytes < MIN_BUFFERED_BYTES:
        add_problem(
            "max_buffered_bytes",
            "too small for the largest requests of a single client",
            f"write at least {MIN_BUFFERED_BYTES // 1024**2}M, or remove it",
        )
    if settings.peer_requests.client_timeout <= 0:
        add_problem(
            "federation.client_timeout",
            "no other server can respond in no time",
            "write a time like 60s, or remove it",
        )


def _check_metrics(settings: Settings, warn: Warn) -> None:
    if offers(settings, "metrics") and not settings.metrics.enable_metrics:
        warn("enable_metrics", "false, so the listener with the resource `metrics` serves none")


def _check_registration(settings: Settings, add_problem: AddProblem) -> None:
    registration = settings.registration
    is_open = registration.enable_registration and not (
        registration.registration_requires_token
        or registration.registrations_require_3pid
        or settings.threepids.enable_registration_captcha
        or registration.enable_registration_without_verification
    )
    if is_open:
        add_problem(
            "enable_registration",
            "anyone could register without verification, which spammers will abuse",
            "set `registration_requires_token: true`, or, if you accept that, "
            "`enable_registration_without_verification: true`",
        )


def _check_sessions(settings: Settings, add_problem: AddProblem) -> None:
    sessions = settings.sessions
    session_ms = sessions.session_lifetime
    for key in ("nonrefreshable_access_token_lifetime", "refresh_token_lifetime"):
        lifetime_ms = getattr(sessions, key)
        if session_ms is not None and lifetime_ms is not None and lifetime_ms > session_ms:
            add_problem(key, "longer than session_lifetime", "shorten it, or remove it")


def _check_auto_join_rooms(settings: Settings, add_problem: AddProblem, warn: Warn) -> None:
    rooms = settings.rooms
    is_private = rooms.autocreate_auto_join_room_preset != "public_chat"
    if rooms.auto_join_rooms and is_private and not rooms.auto_join_mxid_localpart:
        message = "missing, so users cannot join private rooms that the server creates"
        warn("auto_join_mxid_localpart", message)
    for number, alias in enumerate(settings.rooms.auto_join_rooms):
        try:
            parse_room_alias(alias)
        except InvalidParam:
            add_problem(
                f"auto_join_rooms.{number}",
                f"{alias!r:.80} is not a room alias, so new users could not join it",
                'write it like "#welcome:example.org"',
            )


def _check_certificates(settings: Settings, warn: Warn) -> None:
    if settings.outgoing.use_insecure_ssl_client_just_for_testing_do_not_use:
        warn(
            "use_insecure_ssl_client_just_for_testing_do_not_use",
            "true, so TLS certificates are not checked; remove it outside of tests",
        )


def _check_authorities(settings: Settings, add_problem: AddProblem) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    for number, path in enumerate(settings.federation.federation_custom_ca_list):
        try:
            context.load_verify_locations(path)
        except OSError as error:
            add_problem(
                f"federation_custom_ca_list.{number}",
                f"cannot read certificates from {path}: {error.strerror or error}",
                "write the path of a PEM file with certificates of authorities",
            )


def _check_keys(settings: Settings, add_problem: AddProblem) -> None:
    for key_id, old in settings.signing_keys.old_signing_keys.items():
        try:
            VerifyKey.parse(key_id, old.key)
        except InvalidSigningKey as fault:
            remedy = "write the public key in base64, as `hs` and Synapse print it"
            add_problem(f"old_signing_keys.{key_id}", str(fault), remedy)
    for number, server in enumerate(settings.key_exchange.trusted_key_servers):
        is_proven = settings.federation.federation_verify_certificates or server.verify_keys
        if not is_proven and not server.accept_keys_insecurely:
            add_problem(
                f"trusted_key_servers.{number}",
                f"anyone could impersonate {server.server_name}, because neither its certificate "
                "nor its keys are verified",
                "add its `verify_keys`, or, if you accept that, `accept_keys_insecurely: true`",
            )


def protect_replication(
    listener: Listener, has_secret: bool, is_allowed: bool, add_problem: AddProblem
) -> Listener:
    """Keep an unprotected replication listener off the network.

    Without a secret, a listener without addresses is bound to the loopback interface only, and a
    public address is a problem, unless `unsafe_replication_without_secret` allows it.
    """
    if "replication" not in listener.names or has_secret or is_allowed:
        return listener
    if listener.is_open:
        return attrs.evolve(listener, bind_addresses=LOOPBACK, is_open=False)
    for address in listener.bind_addresses:
        if not _is_private(address):
            add_problem(
                "worker_replication_secret",
                f"missing, but the listener on {listener.label} offers replication on {address}",
                "set a long random secret, or bind that listener to 127.0.0.1, or, if a firewall "
                "protects it, set `unsafe_replication_without_secret: true`",
            )
    return listener


def _is_private(address: str) -> bool:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address == "localhost"
    return parsed.is_private and not parsed.is_unspecified
