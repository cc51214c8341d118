"""A process of the server, forked from the fork server: settings, link to the supervisor, boot."""

import logging
import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from hs.apis.web.inherited_sockets import InheritedSockets
from hs.nursery.boot import main
from hs.nursery.preflight import build_once
from hs.nursery.supervision.process_files import ProcessFiles
from hs.nursery.supervision.requests import ProcessSource, ServeRequest
from hs.nursery.supervision.supervisor_link import SupervisorLink
from hs.settings.errors import EXIT_BAD_CONFIG, Problem, SettingsError
from hs.settings.settings import Settings


def run_forked(request: ServeRequest, files: list[int]) -> int:
    """Run a process of the server until it is stopped; return its exit status."""
    link, *sockets = [socket.socket(fileno=fd) for fd in files]
    for fd in files:
        os.set_inheritable(fd, False)
    try:
        settings = _settings_of(request.source)
    except SettingsError as error:
        sys.stderr.write(f"{error}\n")
        return EXIT_BAD_CONFIG
    inherited = InheritedSockets(dict(zip(request.addresses, sockets, strict=True)))
    return main(settings, SupervisorLink(link, inherited))


def build_all(sources: Sequence[ProcessSource]) -> list[Problem]:
    """Build the processes without starting anything; return the problems, each once."""
    problems: dict[Problem, None] = {}
    logging.disable(logging.CRITICAL)  # the processes log the same when they start
    for source in sources:
        try:
            settings = _settings_of(source)
            error = settings.locate(SettingsError(build_once(settings)))
        except SettingsError as unreadable:
            error = unreadable
        problems |= dict.fromkeys(error.problems)
    logging.disable(logging.NOTSET)
    return list(problems)


def _settings_of(source: ProcessSource) -> Settings:
    files = tuple(map(Path, source.files))
    process = ProcessFiles(name=source.name, files=files, overlay=source.overlay)
    return process.load(source.allow_ineffective)
