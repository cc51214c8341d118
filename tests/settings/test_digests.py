"""Digests of shared settings: equal for equal settings, and free of what processes may change."""

from pathlib import Path

from hs.settings.digests import digest_of_all, digests_of
from hs.settings.load import load_settings

SHARED = """
server_name: example.org
rc_login: {address: {per_second: 1, burst_count: 2}}
stream_writers: {events: [a, b]}
instance_map: {main: {host: localhost, port: 9000}, a: {host: localhost, port: 9001},
  b: {host: localhost, port: 9002}}
redis: {enabled: true}
database: {name: psycopg2, args: {database: x}}
"""
WORKER = """
worker_app: synapse.app.generic_worker
worker_name: a
worker_listeners: [{type: http, port: 9001, resources: [{names: [replication]}]}]
"""


def test_worker_with_the_same_shared_file_has_the_same_digests(tmp_path: Path) -> None:
    shared, worker = tmp_path / "homeserver.yaml", tmp_path / "a.yaml"
    shared.write_text(SHARED)
    worker.write_text(WORKER)

    digests = load_settings([shared]).digests

    assert digests == load_settings([shared, worker]).digests
    assert "rc_login" in digests
    assert digest_of_all(digests) == digest_of_all(dict(reversed(list(digests.items()))))


def test_digest_shows_an_order_that_matters_and_no_secret() -> None:
    before = digests_of(
        {"stream_writers": {"events": ["a", "b"]}, "form_secret": "x", "pid_file": 1}
    )
    after = digests_of(
        {"stream_writers": {"events": ["b", "a"]}, "form_secret": "x", "pid_file": 2}
    )

    assert before.keys() == {"stream_writers", "form_secret"}
    assert before["form_secret"] == after["form_secret"] != "x"
    assert before["stream_writers"] != after["stream_writers"]
