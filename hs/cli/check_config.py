"""`hs check-config`: reports what would stop `hs serve`, and starts nothing."""

from collections.abc import Sequence
from pathlib import Path

import attrs
import click

from hs.cli.notices import print_notices
from hs.cli.options import (
    DEFAULT_CONFIGS,
    allow_ineffective_option,
    config_option,
    load_command_settings,
)
from hs.nursery.preflight import check_database, check_start
from hs.settings.cluster_checks import check_cluster
from hs.settings.documents import configuration_files_of
from hs.settings.errors import Notice, Problem, SettingsError
from hs.settings.settings import Settings


@click.command("check-config", epilog="Exit status: 0 if the configuration is usable, 2 otherwise.")
@config_option
@click.option(
    "--workers",
    "workers",
    multiple=True,
    type=click.Path(path_type=Path),
    help="The file of a worker, or a directory of them; may be repeated. Checks all processes.",
)
@click.option("--strict", is_flag=True, help="Treat unknown keys as mistakes.")
@click.option("--online", is_flag=True, help="Connect to the database too.")
@allow_ineffective_option
def check_config(
    configs: tuple[Path, ...],
    workers: tuple[Path, ...],
    strict: bool,
    online: bool,
    allow_ineffective: tuple[str, ...],
) -> None:
    """Check a configuration and report all mistakes, with file, line and remedy.

    It fails where `hs serve` would fail: it reads the signing key, sets up logging, checks media
    folders and templates, opens the addresses of listeners, and builds all services. Nothing is
    started, and no file is left. Run it as the user of the server, with the same files as
    `hs serve`. Warnings and notes do not make a configuration unusable.

    With `--workers` it checks main and each worker like this, and all of them together: tasks of
    processes that no file starts, files that disagree, names and ports that occur twice, addresses
    in `instance_map` at which nobody listens.

    \b
        hs check-config -c homeserver.yaml
        hs check-config -c homeserver.yaml --online
        hs check-config -c homeserver.yaml -c workers/sync1.yaml
        hs check-config -c homeserver.yaml --workers workers/
    """
    found = _Found()
    shared = configs or DEFAULT_CONFIGS
    checked: list[Settings] = []
    for files in [
        shared,
        *((*shared, file) for path in workers for file in configuration_files_of(path)),
    ]:
        settings = found.load(files, strict, allow_ineffective)
        if settings is not None:
            found.check(settings, is_online=online and not checked)
            checked.append(settings)
    if workers and checked and checked[0].workers.is_main:
        findings = check_cluster(checked[0], checked[1:])
        found.add(findings.problems, findings.notices)
    if found.problems:
        raise SettingsError(found.problems, found.notices)
    print_notices(found.notices)
    for settings in checked:
        click.echo(_summary_of(settings))


@attrs.define
class _Found:
    """What was found in all files; a mistake in a shared file is reported once."""

    problems: list[Problem] = attrs.Factory(list)
    notices: list[Notice] = attrs.Factory(list)

    def add(self, problems: Sequence[Problem], notices: Sequence[Notice]) -> None:
        self.problems += [problem for problem in problems if problem not in self.problems]
        self.notices += [notice for notice in notices if notice not in self.notices]

    def load(
        self, files: tuple[Path, ...], strict: bool, allow_ineffective: tuple[str, ...]
    ) -> Settings | None:
        """Load the settings of a process; None if they cannot be used."""
        try:
            return load_command_settings(files, strict=strict, allow_ineffective=allow_ineffective)
        except SettingsError as error:
            self.add(error.problems, error.notices)
            return None

    def check(self, settings: Settings, *, is_online: bool) -> None:
        """Check what would stop the start of a process."""
        problems, notices = check_start(settings)
        if is_online:
            problems += check_database(settings)
        located = settings.locate(SettingsError(problems))
        self.add(located.problems, [*settings.notices, *notices])


def _summary_of(settings: Settings) -> str:
    workers = settings.workers
    process = "the main process" if workers.is_main else f"the worker {workers.name}"
    listeners = ", ".join(listener.label for listener in settings.opened_listeners) or "nothing"
    return (
        f"The configuration of {settings.server.server_name} is usable: {process}, "
        f"{settings.database.engine}, listening on {listeners}."
    )
