"""`hs systemd-units`: writes systemd units that fit the files of a server."""

import sys
from pathlib import Path

import click

from hs.cli.server_processes import config_option
from hs.nursery.supervision.process_files import ProcessFiles, load_all
from hs.nursery.supervision.server_files import find_processes
from hs.nursery.systemd_units import (
    STATE,
    Installation,
    folders_written,
    has_privileged_ports,
    instances_of,
    unit_of_supervisor,
    units_of_processes,
)
from hs.settings.generate import CONFIG_NAME
from hs.settings.ineffective import RESTRICTING_KEYS
from hs.settings.sections.workers import MAIN

_UNITS = Path("/etc/systemd/system")


@click.command("systemd-units", epilog="Exit status: 0, or 2 if the configuration is wrong.")
@config_option
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path, file_okay=False),
    default=STATE / "hs",
    show_default=True,
    help="Directory that the server writes to, besides those that the configuration names.",
)
@click.option("--user", default="hs", show_default=True, help="User and group of the server.")
@click.option("--supervise", is_flag=True, help="One unit, which runs `hs supervise`.")
@click.option(
    "--write",
    "target",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    help=f"Write the units to this directory, for example {_UNITS}, instead of printing them.",
)
def systemd_units(
    config: Path | None, data_dir: Path, user: str, supervise: bool, target: Path | None
) -> None:
    """Print systemd units for the processes of a server.

    They contain the path of this program and of the configuration files. The processes may write
    only to the data directory and to the directories that the configuration names; create those
    that are missing, because systemd does not start a unit without them. main is hs.service; each
    worker is an instance of hs@.service, named after its file; hs.target stands for all of them.
    With --supervise, hs.service runs all processes.

    \b
        hs systemd-units --config /etc/hs                     to read them
        sudo hs systemd-units --config /etc/hs --write /etc/systemd/system
        hs systemd-units --config /etc/hs --supervise
    """
    source = (config or Path(CONFIG_NAME)).absolute()
    processes = (
        find_processes(source) if source.is_dir() else [ProcessFiles(name=MAIN, files=(source,))]
    )
    all_settings = load_all(processes, RESTRICTING_KEYS)
    installed = Installation(
        program=Path(sys.argv[0]).absolute(),
        data=data_dir.absolute(),
        user=user,
        config=[source, *(process.files[-1] for process in processes)],
        writable=folders_written(all_settings),
        has_privileged_ports=has_privileged_ports(all_settings),
    )
    if supervise and not source.is_dir():
        raise click.UsageError("--supervise needs --config DIRECTORY")
    if supervise:
        units, services = unit_of_supervisor(installed, source), ["hs.service"]
    else:
        units = units_of_processes(installed, processes)
        services = ["hs.target", *instances_of(processes)]
    for name, text in units.items():
        if target is None:
            click.echo(f"# {_UNITS / name}\n{text}")
        else:
            (target / name).write_text(text)
            click.echo(str(target / name))
    click.echo(f"systemctl daemon-reload && systemctl enable --now {' '.join(services)}", err=True)
