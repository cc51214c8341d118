"""Log configurations written for Synapse."""

import logging
import logging.config
import socket
from pathlib import Path

import pytest

from hs.lib.log import REQUEST_ID
from tests.settings.conftest import Load, Refused

SAMPLE = """
version: 1
formatters:
  precise:
    format: '%(asctime)s - %(name)s - %(lineno)d - %(levelname)s - %(request)s - %(message)s'
filters:
  context:
    (): synapse.logging.context.LoggingContextFilter
    request: ""
handlers:
  file:
    class: logging.handlers.RotatingFileHandler
    formatter: precise
    filename: {folder}/homeserver.log
    maxBytes: 104857600
    backupCount: 10
    filters: [context]
    encoding: utf8
  console:
    class: logging.StreamHandler
    formatter: precise
    filters: [context]
loggers:
  synapse: {{level: INFO}}
  synapse.storage.SQL: {{level: INFO}}
  twisted: {{handlers: [file], propagate: false}}
root:
  level: INFO
  handlers: [file, console]
disable_existing_loggers: false
"""
STRUCTURED = """
version: 1
formatters:
  terse: {{class: synapse.logging.TerseJsonFormatter}}
  old: {{(): synapse.logging.formatter.LogFormatter, format: '%(message)s'}}
filters:
  labels: {{(): synapse.logging.filter.MetadataFilter, metadata: {{host: matrix1}}}}
handlers:
  remote:
    class: synapse.logging.RemoteHandler
    formatter: terse
    filters: [labels]
    host: 127.0.0.1
    port: {port}
    maximum_buffer: 100
root: {{level: INFO, handlers: [remote]}}
"""


def apply(load: Load, folder: Path, text: str) -> None:
    """Load a log configuration and apply it as a process does."""
    (folder / "log.yaml").write_text(text)
    settings = load("log_config: log.yaml")
    assert settings.logging.config is not None
    logging.config.dictConfig(dict(settings.logging.config))


def test_sample_of_synapse_works(load: Load, tmp_path: Path, restored_logging: None) -> None:
    apply(load, tmp_path, SAMPLE.format(folder=tmp_path))

    logging.getLogger("hs.test").info("outside")
    token = REQUEST_ID.set("GET-1")
    logging.getLogger("hs.test").info("inside")
    REQUEST_ID.reset(token)

    outside, inside = (tmp_path / "homeserver.log").read_text().splitlines()
    assert outside.endswith(" - INFO -  - outside")
    assert inside.endswith(" - INFO - GET-1 - inside")


def test_structured_logging_to_a_remote_server_works(
    load: Load, tmp_path: Path, restored_logging: None
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        apply(load, tmp_path, STRUCTURED.format(port=server.getsockname()[1]))
        logging.getLogger("hs.test").info("a line")

        server.settimeout(10)
        connection, _ = server.accept()
        with connection, connection.makefile("rb") as received:
            line = received.readline()

    assert b'"log":"a line"' in line
    assert b'"host":"matrix1"' in line


def test_old_structured_logging_is_rejected_because_it_would_log_nothing(
    refused: Refused, tmp_path: Path
) -> None:
    (tmp_path / "log.yaml").write_text("structured: true\ndrains: {console: {type: console}}\n")

    assert "`drains` is an old form" in refused("log_config: log.yaml")


@pytest.mark.parametrize("written", ["''", "null"])
def test_empty_log_config_is_none(load: Load, written: str) -> None:
    assert load(f"log_config: {written}").logging.config is None
