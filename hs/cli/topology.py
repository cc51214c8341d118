"""`hs topology`: asks the running processes of a server about themselves."""

import json
from collections.abc import Iterator
from pathlib import Path

import attrs
import click
import trio

from hs.cli.options import config_option
from hs.cli.server_processes import load_server_settings, running_server_option
from hs.nursery.running_processes import FoundProcesses, ask_processes, problems_of
from hs.repl.process_reports import ProcessReport
from hs.settings.sections.workers import MAIN


@click.command(
    epilog="Exit status: 0 if all processes are ready and agree, 1 if not, 2 if the configuration "
    "is wrong."
)
@config_option
@running_server_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def topology(configs: tuple[Path, ...], data_dir: Path | None, as_json: bool) -> None:
    """Show the running processes of a server, and in what they disagree.

    Asks every process in `instance_map` for its version, tasks, streams, lag and settings, at its
    replication listener and with the secret of the configuration. Of workers without such a
    listener it only says that the others hear of them.

    \b
        hs topology -c homeserver.yaml
        hs topology -c homeserver.yaml --json
    """
    settings = load_server_settings(configs, data_dir)
    names = sorted({MAIN, *settings.workers.instances})
    if not settings.workers.instances:
        raise click.UsageError(
            "instance_map is missing: the server is one process, or only main takes calls. If "
            "`hs supervise` runs it with a data directory, name that with --data-dir"
        )
    found = trio.run(ask_processes, settings, names)
    problems = list(problems_of(found))
    if as_json:
        click.echo(_as_json(found, problems))
    else:
        for name in names:
            click.echo("\n".join(describe(name, found[name])))
        for name in unlisted(found):
            click.echo(f"{click.style(name, bold=True)}  runs, has no replication listener")
        for problem in problems:
            click.secho(f"! {problem}", fg="red")
    if problems:
        raise click.exceptions.Exit(1)


def describe(name: str, report: ProcessReport | str) -> Iterator[str]:
    """Yield the lines about a process."""
    if isinstance(report, str):
        yield f"{click.style(name, bold=True)}  not reached: {report}"
        return
    yield (
        f"{click.style(name, bold=True)}  {report.state}, version {report.version}, process "
        f"{report.pid} on {report.host}, running for {_duration(report.running_s)}"
    )
    lag = max((followed.lag for followed in report.follows), default=0)
    lines = {
        "listens": ", ".join(report.listeners),
        "duties": ", ".join(report.duties),
        "writes": ", ".join(report.writes),
        "slots": ", ".join(
            f"{held.count} of {stream} (epochs up to {held.epoch})"
            for stream, held in sorted(report.slots.items())
        ),
        "calls": ", ".join(report.calls),
        "lag": f"{lag} positions" if lag else "",
    }
    for subject, text in lines.items():
        if text:
            yield f"    {subject:8} {text}"


def unlisted(found: FoundProcesses) -> list[str]:
    """Return the processes of which others hear, and that are not in instance_map."""
    heard = {
        name
        for report in found.values()
        if isinstance(report, ProcessReport)
        for name in report.hears
    }
    return sorted(heard - set(found))


def _as_json(found: FoundProcesses, problems: list[str]) -> str:
    processes = {
        name: {"unreachable": report} if isinstance(report, str) else attrs.asdict(report)
        for name, report in found.items()
    }
    shown = {"processes": processes, "unlisted": unlisted(found), "problems": problems}
    return json.dumps(shown, indent=2, sort_keys=True)


def _duration(seconds: float) -> str:
    minutes, hours = seconds / 60, seconds / 3600
    if hours >= 48:
        return f"{hours / 24:.0f} days"
    return f"{hours:.0f} hours" if minutes >= 120 else f"{minutes:.0f} minutes"
