"""Loads configuration files into Settings and reports every mistake at once.

The order of steps, and the rules:

1. Files are merged (`documents`). A later file replaces whole top-level keys. The file and line of
   each key are kept: relative paths start at the directory of that file.
2. Keys of old versions are converted to their present form; a key in its present form wins.
   Keys that restrict or identify and have no effect are problems (`ineffective`).
3. Unknown top-level keys become warnings. Keys without effect are checked for their type.
4. Each section is read, key by key. A mistake is recorded, and reading continues with the default.
5. Settings that depend on each other are derived: listeners, PID file and log configuration of a
   worker, default paths, the cache factor from the environment.
6. Contradictions between settings are checked, but only if there are no other problems: a check
   would otherwise report on a default that stands in for a mistake.
7. With `strict`, unknown keys are problems too. All problems are raised as one SettingsError,
   sorted by file and line.

Secrets do not appear in the repr of Settings, so they are not logged with it.
"""

import os
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import attrs

from hs.settings.checks import check_settings, protect_replication
from hs.settings.digests import digests_of
from hs.settings.documents import Document, read_documents
from hs.settings.errors import Notice, Origin, Problem, SettingsError
from hs.settings.fields import did_you_mean, is_present, keys_of, read_key
from hs.settings.ineffective import refuse_ineffective_keys
from hs.settings.kinds import FACTOR, ConfigLocation, InvalidSetting
from hs.settings.legacy import LEGACY_KEYS, convert_legacy_keys
from hs.settings.log_config import read_log_config
from hs.settings.planned import PLANNED_KEYS
from hs.settings.registry import REGISTRY
from hs.settings.sections.appservices import read_appservices
from hs.settings.sections.workers import WorkerKeys, WorkerSettings
from hs.settings.settings import GROUPS, BlockSettings, Settings
from hs.settings.worker_duties import resolve_workers

_FACTOR = "SYNAPSE_CACHE_FACTOR"
_KEYS_WITHOUT_EFFECT = frozenset(key.name for key in PLANNED_KEYS)


def load_settings(
    paths: Iterable[Path],
    environ: Mapping[str, str] | None = None,
    *,
    strict: bool = False,
    allow_ineffective: Collection[str] = (),
) -> Settings:
    """Load settings from one or more files or directories.

    `strict` turns unknown keys into errors. `environ` defaults to the environment of the process.
    `allow_ineffective` are keys without effect that restrict or identify and are not to be errors.

    Raises: SettingsError, with every problem found.
    """
    document = read_documents(paths)
    environment = os.environ if environ is None else environ
    return settings_from(document, environment, strict=strict, allow_ineffective=allow_ineffective)


@attrs.define
class _Loading:
    """The state of loading one document."""

    document: Document
    folder: Path
    values: dict[str, Any] = attrs.field(factory=dict)
    problems: list[Problem] = attrs.field(factory=list)

    def at(self, key: str) -> ConfigLocation:
        origin = self.document.origins.get(key, Origin())
        folder = origin.file.absolute().parent if origin.file else self.folder
        return ConfigLocation((key,), folder, self.document.notices, origin)

    def add_problem(self, key: str, message: str, remedy: str) -> None:
        origin = self.at(key.partition(".")[0]).origin
        self.problems.append(Problem(key=key, message=message, remedy=remedy, origin=origin))

    def warn(self, key: str, message: str) -> None:
        self.at(key).warn(message)

    def read_group(self, cls: type) -> Any:
        values: dict[str, Any] = {}
        for key in keys_of(cls):
            if not is_present(key, self.values):
                continue
            try:
                values[key.name] = read_key(key, self.values, self.at(key.name))
            except InvalidSetting as error:
                self.problems.append(
                    Problem(
                        key=error.at.key,
                        message=error.message,
                        remedy=error.remedy,
                        origin=error.at.origin,
                    )
                )
        return cls(**values)


def settings_from(
    document: Document,
    environ: Mapping[str, str],
    *,
    strict: bool = False,
    allow_ineffective: Collection[str] = (),
) -> Settings:
    """Convert merged keys to Settings.

    Raises: SettingsError, with every problem found.
    """
    folder = document.files[0].absolute().parent if document.files else Path.cwd()
    loading = _Loading(document, folder)
    values = refuse_ineffective_keys(
        document.values, allow_ineffective, loading.at, loading.problems
    )
    loading.values = convert_legacy_keys(values, loading.at, loading.problems)
    _warn_about_unknown_keys(loading)
    _check_keys_without_effect(loading)
    groups = {name: loading.read_group(cls) for name, cls, _ in GROUPS}
    settings = _assemble(loading, groups, environ)
    if not loading.problems:
        check_settings(settings, loading.add_problem, loading.warn)
    if strict:
        loading.problems.extend(_unknown_keys_as_problems(document.notices))
    if loading.problems:
        files = document.files
        default = Origin(file=files[0]) if files else Origin()
        error = SettingsError(loading.problems).located(document.origins, default)
        raise SettingsError(_sorted_by_place(error.problems, files), document.notices)
    return attrs.evolve(settings, notices=tuple(document.notices))


def _sorted_by_place(problems: Iterable[Problem], files: list[Path]) -> list[Problem]:
    """Sort problems by file and line."""

    def sort_key(problem: Problem) -> tuple[int, int]:
        file = problem.origin.file
        number = files.index(file) if file in files else len(files)
        return number, problem.origin.line or 0

    return sorted(problems, key=sort_key)


def _unknown_keys_as_problems(notices: list[Notice]) -> list[Problem]:
    return [
        Problem(
            key=notice.key,
            message=notice.message,
            remedy="correct the name, or remove the key",
            origin=notice.origin,
        )
        for notice in notices
        if notice.is_unknown_key
    ]


def _warn_about_unknown_keys(loading: _Loading) -> None:
    for name in loading.values:
        if name not in REGISTRY:
            loading.at(name).warn(
                "unknown key, ignored" + did_you_mean(name, (*REGISTRY, *LEGACY_KEYS)),
                is_unknown_key=True,
            )


def _check_keys_without_effect(loading: _Loading) -> None:
    """Check the types of keys without effect, and note once that they have none."""
    for name, value in loading.values.items():
        key = REGISTRY.get(name)
        if key is None or key.is_effective:
            continue
        at = loading.at(name)
        try:
            key.kind.read(value, at)
        except InvalidSetting as error:
            if name in _KEYS_WITHOUT_EFFECT:  # all other keys are read again with their section
                loading.add_problem(error.at.key, error.message, error.remedy)
            continue
        if value is not None and value != key.default:
            at.note("has no effect in this version")


def _assemble(loading: _Loading, groups: dict[str, Any], environ: Mapping[str, str]) -> Settings:
    blocks: BlockSettings = groups["blocks"]
    keys: WorkerKeys = groups["worker_keys"]
    workers = resolve_workers(keys, frozenset(loading.values), loading.problems, loading.warn)
    if environ.get(_FACTOR):
        groups["caches"] = _with_factor(groups["caches"], environ[_FACTOR], loading)
    return Settings(
        server=_server(groups, keys, workers),
        listeners=_listeners(loading, blocks, keys, workers),
        connections=groups["connections"],
        tls=groups["tls"],
        database=_database(loading, blocks),
        redis=blocks.redis,
        logging=read_log_config(groups["logging"], keys, workers, loading.problems),
        caches=groups["caches"],
        rate_limits=groups["rate_limits"],
        registration=groups["registration"],
        sessions=groups["sessions"],
        passwords=blocks.password_config,
        reauth=blocks.ui_auth,
        presence=blocks.presence,
        push=blocks.push,
        turn=groups["turn"],
        signing_keys=_signing_keys(loading, groups),
        secrets=groups["secrets"],
        rooms=groups["rooms"],
        user_directory=blocks.user_directory,
        proposals=groups["proposals"],
        media=_media(loading, groups["media"]),
        metrics=groups["metrics"],
        outgoing=groups["outside"],
        federation=groups["federation"],
        peer_requests=blocks.federation,
        remote_rooms=blocks.limit_remote_rooms,
        key_exchange=groups["key_exchange"],
        delegates=blocks.account_threepid_delegates,
        captcha=groups["captcha"],
        lookups=groups["lookups"],
        previews=groups["previews"],
        appservices=read_appservices(groups["appservices"], loading.problems),
        email=blocks.email,
        templates=blocks.templates,
        threepids=groups["threepids"],
        existing_session=blocks.login_via_existing_session,
        jwt=blocks.jwt_config,
        consent=blocks.user_consent,
        retention=blocks.retention,
        server_notices=blocks.server_notices,
        auto_accept=blocks.auto_accept_invites,
        prejoin=blocks.room_prejoin_state,
        stats=blocks.stats,
        blocking=groups["blocking"],
        workers=workers,
        files=tuple(loading.document.files),
        origins=MappingProxyType(dict(loading.document.origins)),
        folder=loading.folder,
        digests=digests_of(loading.values),
    )


def _server(groups: dict[str, Any], keys: WorkerKeys, workers: WorkerSettings) -> Any:
    """Return the server settings of this process; a worker has its own PID file or none."""
    server = groups["server"]
    return server if workers.is_main else attrs.evolve(server, pid_file=keys.worker_pid_file)


def _with_factor(caches: Any, text: str, loading: _Loading) -> Any:
    try:
        factor = FACTOR.read(float(text), loading.at(_FACTOR))
    except (ValueError, InvalidSetting):
        message = f"must be a number of 0 or more, not {text!r}"
        loading.add_problem(_FACTOR, message, "correct the environment variable, or unset it")
        return caches
    return attrs.evolve(caches, caches=attrs.evolve(caches.caches, global_factor=factor))


def _listeners(
    loading: _Loading, blocks: BlockSettings, keys: WorkerKeys, workers: WorkerSettings
) -> Any:
    own_listeners = blocks.listeners if workers.is_main else keys.worker_listeners
    # A secret whose file cannot be read is a problem already.
    has_secret = workers.secret is not None or any(
        problem.key.startswith("worker_replication_secret") for problem in loading.problems
    )
    return tuple(
        protect_replication(
            listener,
            has_secret,
            keys.unsafe_replication_without_secret,
            loading.add_problem,
        )
        for listener in own_listeners
    )


def _database(loading: _Loading, blocks: BlockSettings) -> Any:
    if blocks.databases is not None:
        if loading.values.get("database"):
            loading.add_problem("databases", "database is set as well", "remove one of the two")
        return blocks.databases
    if "database" in loading.values:
        return blocks.database
    for name in loading.values:
        # Otherwise the server would begin with a new, empty database.
        if name not in REGISTRY and did_you_mean(name, ("database",)):
            loading.add_problem(name, "unknown key", "write `database`, or remove the key")
    return attrs.evolve(blocks.database, path=loading.folder / blocks.database.path)


def _media(loading: _Loading, media: Any) -> Any:
    if "media_store_path" in loading.values:
        return media
    return attrs.evolve(media, media_store_path=loading.folder / media.media_store_path)


def _signing_keys(loading: _Loading, groups: dict[str, Any]) -> Any:
    keys = groups["signing_keys"]
    if keys.signing_key_path is None and keys.signing_key is None:
        name = f"{groups['server'].server_name}.signing.key"
        return attrs.evolve(keys, signing_key_path=loading.folder / name)
    return keys
