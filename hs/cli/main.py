"""The `hs` command: finds the subcommand, and reports expected errors without a traceback."""

import importlib
import sys

import click

from hs.cli.notices import print_notices
from hs.settings.errors import EXIT_BAD_CONFIG, SettingsError

# The module of each command, imported only when the command runs, and its line in `hs --help`.
_COMMANDS = {
    "serve": ("hs.cli.serve", "Run the server, or one of its workers."),
    "supervise": ("hs.cli.supervise", "Run all processes of a server."),
    "restart": ("hs.cli.restart", "Restart the processes of `hs supervise` without a gap."),
    "ctl": ("hs.cli.ctl", "Start and stop processes in the background, as synctl does."),
    "generate-config": ("hs.cli.generate", "Write an initial configuration."),
    "check-config": ("hs.cli.check_config", "Report all mistakes in a configuration."),
    "plan": ("hs.cli.inspect_plan", "Show what a process would run."),
    "doctor": ("hs.cli.doctor", "Check a running server as a whole."),
    "proxy-config": ("hs.cli.proxy_config", "Print the configuration of a reverse proxy."),
    "systemd-units": ("hs.cli.systemd_units", "Print systemd units for all processes."),
    "topology": ("hs.cli.topology", "Show the running processes of a server."),
    "rebalance": ("hs.cli.rebalance", "Share out rooms and users evenly among their writers."),
    "routes": ("hs.cli.inspect_plan", "List the HTTP endpoints."),
    "register-user": ("hs.cli.register", "Create an account on a running server."),
    "hash-password": ("hs.cli.passwords", "Hash a password for the database."),
    "migrate": ("hs.cli.migrate", "Migrate the database schema."),
    "federation-check": ("hs.cli.federation_check", "Check how another server is reached."),
    "reference": ("hs.cli.inspect_config", "Write the reference of all settings."),
    "version": ("hs.cli.inspect_config", "Print the version."),
}
EXIT_FAILED = 1


class Commands(click.Group):
    """A command group that imports only the module of the command that runs, to start fast."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of the commands in the order in which a new administrator needs them."""
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the module of a command and return the command."""
        if cmd_name not in _COMMANDS:
            return None
        module = importlib.import_module(_COMMANDS[cmd_name][0])
        command: click.Command = getattr(module, cmd_name.replace("-", "_"))
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing their modules."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, purpose) for name, (_, purpose) in _COMMANDS.items()])


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 96},
    epilog="Exit status: 0 on success, 1 on failure, 2 if the command line or the configuration is "
    "wrong. `hs COMMAND --help` explains each command.",
)
def cli() -> None:
    """hs, a Matrix homeserver that runs as one process or as many workers.

    To try it: `hs serve` writes an initial configuration to ./data and runs the server; in a second
    terminal, create the first account:

    \b
        hs serve
        hs register-user --admin

    For a real server, choose its name first, because it cannot be changed later:

    \b
        hs generate-config --server-name example.org
        hs serve

    As several processes, workers, that share the load:

    \b
        hs supervise --workers event_persister:2,sync:2
        hs restart --rolling
    """


def run() -> None:
    """Run the command line and exit with its status."""
    try:
        cli.main(prog_name="hs")
    except SettingsError as error:
        print_notices(error.notices)
        click.secho("The configuration cannot be used:", fg="red", err=True)
        for problem in error.problems:
            click.echo(f"  {problem}", err=True)
        sys.exit(EXIT_BAD_CONFIG)
    except OSError as error:
        path = f"{error.filename}: " if error.filename else ""
        click.echo(f"Error: {path}{error.strerror or error}", err=True)
        sys.exit(EXIT_FAILED)
