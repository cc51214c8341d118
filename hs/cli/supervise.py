"""`hs supervise`: runs all processes of a server with one command."""

import sys
from pathlib import Path
from typing import Any

import attrs
import click

from hs.cli.notices import print_notices
from hs.cli.options import allow_ineffective_option
from hs.cli.server_processes import (
    Find,
    config_option,
    data_dir_option,
    data_folder_of,
    finder,
    run_folder,
    shape_options,
)
from hs.nursery.supervision.private_servers import (
    PrivateServer,
    private_postgres,
    private_redis,
)
from hs.nursery.supervision.process_files import ProcessFiles, check_together, load_all
from hs.nursery.supervision.shape import parse_shape, write_files
from hs.nursery.supervision.supervision import supervise as run_supervisor
from hs.nursery.supervision.supervision import take_lock
from hs.nursery.supervision.supervisor import ServerPlan
from hs.settings.generate import (
    CONFIG_NAME,
    InitialConfig,
    parse_new_server_name,
    write_initial_config,
    write_secrets,
)

DEFAULT_CONNECTIONS = 10
"""`cp_max` where the configuration says nothing."""


@click.command(
    epilog="Ctrl-C or SIGTERM stops all processes in order. SIGHUP reopens log files. Exit status: "
    "0 if it was stopped, 1 if a process fails again and again, 2 if the configuration is wrong."
)
@config_option
@shape_options
@data_dir_option
@click.option(
    "--write",
    "target",
    type=click.Path(path_type=Path, file_okay=False),
    help="Write the files that --workers stands for to this directory, and start nothing.",
)
@click.option("--postgres", is_flag=True, help="Run a PostgreSQL for this server alone.")
@click.option(
    "-H",
    "--server-name",
    envvar="HS_SERVER_NAME",
    default="localhost",
    help="Name of a new server, if there is no homeserver.yaml yet.",
)
@allow_ineffective_option
def supervise(
    config: Path | None,
    shape: str | None,
    data_dir: Path | None,
    first_port: int,
    target: Path | None,
    postgres: bool,
    server_name: str,
    allow_ineffective: tuple[str, ...],
) -> None:
    """Run all processes of a server, main and workers, and keep them running.

    The processes are forked from one that has loaded everything, share its memory, and write one
    log. A process that ends is started again. Where no Redis is configured, a private one is
    started.

    \b
        hs supervise --config /etc/hs
        hs supervise -c homeserver.yaml --workers event_persister:2,sync:2,pusher
        hs supervise --postgres --workers event_persister,sync:2    to try it
    """
    folder = data_folder_of(config, data_dir)
    source = config or folder / CONFIG_NAME
    if config is None and not source.exists():
        write_initial_config(
            InitialConfig(folder=folder, server_name=parse_new_server_name(server_name))
        )
    if target is not None:
        if postgres:
            raise click.UsageError(
                "--write is for a server without a supervisor, which would run --postgres: name "
                "the database in homeserver.yaml"
            )
        _write(source, shape, first_port, target)
        return
    run = run_folder(folder)
    find = finder(source, shape, first_port, run)
    lock = take_lock(run)
    plan = _with_programs(find, folder, postgres, allow_ineffective)
    notices = check_together(load_all(list(plan.find()), allow_ineffective))
    print_notices(notices)
    write_secrets(notice.new_secret for notice in notices if notice.new_secret)
    sys.exit(run_supervisor(plan, run, lock))


def _write(source: Path, shape: str | None, first_port: int, target: Path) -> None:
    """Write homeserver.yaml and the files of workers, for a service manager."""
    if shape is None:
        raise click.UsageError("--write needs --workers")
    written = write_files(source, parse_shape(shape), first_port, target)
    for path in written:
        click.echo(str(path))


def _with_programs(
    find: Find, folder: Path, postgres: bool, allow_ineffective: tuple[str, ...]
) -> ServerPlan:
    """Return the plan, with a private Redis and PostgreSQL where they are wanted."""
    processes = find()
    document = processes[0].document()
    programs: list[PrivateServer] = []
    more: dict[str, Any] = {}
    redis = document.values.get("redis")
    if len(processes) > 1 and not (isinstance(redis, dict) and redis.get("enabled")):
        server, more["redis"] = private_redis(run_folder(folder))
        programs.append(server)
    if postgres:
        connections = len(processes) * DEFAULT_CONNECTIONS
        server, more["database"] = private_postgres(folder.absolute() / "postgres", connections)
        programs.append(server)

    def find_with_programs() -> list[ProcessFiles]:
        return [attrs.evolve(process, overlay={**process.overlay, **more}) for process in find()]

    return ServerPlan(
        find=find_with_programs,
        allow_ineffective=allow_ineffective,
        programs=tuple(programs),
    )
