"""`hs restart`: replaces the processes of a running supervisor without a gap."""

import sys
from pathlib import Path

import click

from hs.cli.server_processes import config_option, data_dir_option, data_folder_of, run_folder
from hs.nursery.supervision.control_client import NoSupervisor, ask_supervisor

EXIT_FAILED = 1


@click.command(
    epilog="Exit status: 0 if all processes were restarted, 1 if not, 2 if the configuration is "
    "wrong; then nothing was restarted."
)
@click.argument("names", nargs=-1, metavar="[PROCESS]...")
@click.option("--rolling", is_flag=True, help="Restart all processes, one after the other.")
@config_option
@data_dir_option
def restart(
    names: tuple[str, ...], rolling: bool, config: Path | None, data_dir: Path | None
) -> None:
    """Restart processes of a running `hs supervise`, without refusing a connection.

    The files are read again, and the program as it is installed now. Each new process is built
    before the old one is asked to stop; requests that arrive in between wait. If the configuration
    cannot be used, nothing is restarted. After an upgrade, use --rolling, so that all processes
    share the memory of the new program.

    \b
        hs restart --rolling              after an upgrade
        hs restart sync1 sync2
    """
    if not names and not rolling:
        raise click.UsageError("name processes, or add --rolling to restart all of them")
    if names and rolling:
        raise click.UsageError("--rolling restarts all processes; leave out their names")
    sys.exit(_obey(run_folder(data_folder_of(config, data_dir)), "restart", names))


def _obey(folder: Path, action: str, names: tuple[str, ...]) -> int:
    try:
        for line in ask_supervisor(folder, action, names):
            if line.startswith("= "):
                return int(line[2:])
            click.echo(line)
    except NoSupervisor as error:
        click.echo(f"Error: {error}", err=True)
    return EXIT_FAILED
