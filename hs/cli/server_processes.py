"""The processes that `--config` and `--workers` name, for commands about a whole server."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from hs.cli.options import DEFAULT_DATA, load_command_settings
from hs.nursery.supervision.control_client import NoSupervisor, ask_configuration
from hs.nursery.supervision.process_files import ProcessFiles
from hs.nursery.supervision.server_files import find_processes
from hs.nursery.supervision.shape import generate_server, parse_shape
from hs.settings.documents import read_documents
from hs.settings.errors import Problem, SettingsError
from hs.settings.generate import CONFIG_NAME
from hs.settings.ineffective import RESTRICTING_KEYS
from hs.settings.settings import Settings

F = TypeVar("F", bound=Callable[..., Any])
Find = Callable[[], list[ProcessFiles]]
RUN_FOLDER = "run"


def config_option(command: F) -> F:
    """Add the option --config, which names a directory, or homeserver.yaml."""
    return click.option(
        "-c",
        "--config",
        type=click.Path(path_type=Path),
        envvar="HS_CONFIG",
        help="Directory with homeserver.yaml and the files of workers, or homeserver.yaml with "
        "--workers. [default: homeserver.yaml in the data directory]",
    )(command)


def data_dir_option(command: F) -> F:
    """Add the option --data-dir."""
    return click.option(
        "--data-dir",
        type=click.Path(path_type=Path, file_okay=False),
        help="Directory for sockets, and for a private PostgreSQL. [default: directory of "
        "homeserver.yaml, or data]",
    )(command)


def running_server_option(command: F) -> F:
    """Add the option --data-dir of a server that runs."""
    return click.option(
        "--data-dir",
        type=click.Path(path_type=Path, file_okay=False),
        help="Data directory of `hs supervise`, if it runs the server and has that option.",
    )(command)


def shape_options(command: F) -> F:
    """Add the options --workers and --first-port."""
    command = click.option(
        "--first-port",
        type=click.IntRange(1, 65535),
        default=8081,
        show_default=True,
        help="Port for clients of the first generated worker; further ones follow.",
    )(command)
    return click.option(
        "-w",
        "--workers",
        "shape",
        metavar="SHAPE",
        help="Workers to run, for example event_persister:2,sync:2,pusher,media; their files are "
        "generated.",
    )(command)


def data_folder_of(config: Path | None, data_dir: Path | None) -> Path:
    """Return the data directory: as given, that of the configuration, or the default."""
    if data_dir is not None:
        return data_dir
    if config is None:
        return DEFAULT_DATA
    return config if config.is_dir() else config.parent


def run_folder(data_folder: Path) -> Path:
    """Return the folder of sockets and lock in a data directory."""
    return data_folder.absolute() / RUN_FOLDER


def load_server_settings(configs: tuple[Path, ...], data_dir: Path | None) -> Settings:
    """Load the settings of the main process for a command about a running server.

    If `hs supervise` runs it, these are the settings with what the supervisor generated.

    Raises: SettingsError.
    """
    first = configs[0] if configs else None
    try:
        main = ask_configuration(run_folder(data_folder_of(first, data_dir)))
    except NoSupervisor as error:
        if data_dir is not None:
            raise SettingsError([_not_running(error)]) from None
        return load_command_settings(configs)
    return main.load(RESTRICTING_KEYS)


def _not_running(error: NoSupervisor) -> Problem:
    return Problem(key="--data-dir", message=str(error), remedy="start it, or leave the option out")


def finder(source: Path, shape: str | None, first_port: int, run: Path) -> Find:
    """Return the function that reads which processes there are. Raises: SettingsError."""
    if shape is None:
        if not source.is_dir():
            message = f"{source} is not a directory"
            remedy = "name a directory with the files of all processes, or add --workers"
            raise SettingsError([Problem(key="--config", message=message, remedy=remedy)])
        return lambda: find_processes(source)
    groups = parse_shape(shape)

    def find() -> list[ProcessFiles]:
        files = (source / CONFIG_NAME,) if source.is_dir() else (source,)
        document = read_documents(files)
        server = generate_server(
            groups, document, lambda name: {"path": str(run / f"{name}.sock")}, first_port
        )
        return server.processes(files)

    return find
