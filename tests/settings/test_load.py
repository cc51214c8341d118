"""Reading files: merging, unknown keys, mistakes told with file, line and remedy."""

import logging
import logging.config
from pathlib import Path

import pytest

from hs.settings.errors import SettingsError
from hs.settings.load import load_settings
from hs.settings.sections.rate_limits import Rate
from tests.settings.conftest import Load, Refused


def test_a_server_name_is_enough(load: Load) -> None:
    settings = load("server_name: example.org")

    assert settings.server.server_name == "example.org"
    assert settings.database.is_sqlite
    assert settings.workers.is_main
    assert [listener.port for listener in settings.listeners] == [8008]
    assert settings.notices == ()


def test_the_defaults_need_no_file_but_a_name(refused: Refused) -> None:
    assert "0.yaml: server_name: missing" in refused("# server_name is not here\npid_file: x")


def test_a_later_file_replaces_a_whole_top_level_key(load: Load) -> None:
    settings = load("presence: {enabled: false, idle_timeout: 1m}", "presence: {idle_timeout: 2m}")

    assert settings.presence.enabled is True
    assert settings.presence.idle_timeout == 120_000


def test_a_directory_gives_its_yaml_files_in_order(tmp_path: Path) -> None:
    (tmp_path / "20-b.yaml").write_text("bcrypt_rounds: 5")
    (tmp_path / "10-a.yaml").write_text("server_name: a.org\nbcrypt_rounds: 4")
    (tmp_path / "30-c.yml").write_text("bcrypt_rounds: 6")
    (tmp_path / "sub.yaml").mkdir()

    settings = load_settings([tmp_path], {})

    assert settings.registration.bcrypt_rounds == 5
    assert [file.name for file in settings.files] == ["10-a.yaml", "20-b.yaml"]


def test_an_empty_file_is_reported_and_skipped(load: Load) -> None:
    settings = load("server_name: a.org", "# nothing\n")

    assert [notice.message for notice in settings.notices] == ["holds no keys, skipped"]


def test_the_configuration_of_logs_may_lie_in_the_same_directory(tmp_path: Path) -> None:
    (tmp_path / "homeserver.yaml").write_text("server_name: a.org")
    (tmp_path / "log.yaml").write_text("version: 1\nroot: {level: INFO}")

    settings = load_settings([tmp_path], {})

    assert settings.notices == ()
    assert [file.name for file in settings.files] == ["homeserver.yaml"]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"a: 1\nb: \xff", "0.yaml:2: the file is not text in UTF-8"),
        (None, "0.yaml: the file cannot be read: Too many levels of symbolic links"),
    ],
)
def test_a_file_that_cannot_be_read_is_told_plainly(
    tmp_path: Path, content: bytes | None, told: str
) -> None:
    path = tmp_path / "0.yaml"
    path.symlink_to(path) if content is None else path.write_bytes(content)

    with pytest.raises(SettingsError) as refused:
        load_settings([path], {})

    assert told in str(refused.value)


def test_a_mistake_names_file_line_key_and_remedy(refused: Refused) -> None:
    told = refused("presence:\n  idle_timeout: soon")

    assert "0.yaml:2: presence.idle_timeout: expected a duration, found 'soon'" in told
    assert "→ write milliseconds" in told


@pytest.mark.parametrize(
    "written",
    [
        "pid_file: ~nobody.of.this.name/x",
        'pid_file: "a\\0b"',
        'registration_shared_secret_path: "\\0"',
        'database: {name: sqlite3, args: {database: "\\0"}}',
        "rc_message: {per_second: .inf}",
        "rc_message: {burst_count: .nan}",
        "caches: {global_factor: -1}",
        "caches: {per_cache_factors: {events: -0.5}}",
        f"event_cache_size: '{'1' * 5000}'",
        f"user_ips_max_age: '{'1' * 5000}d'",
    ],
)
def test_values_that_nothing_can_be_done_with_are_mistakes(refused: Refused, written: str) -> None:
    assert f": {written.partition(':')[0]}" in refused(written)


def test_all_mistakes_are_told_at_once(refused: Refused) -> None:
    told = refused("bcrypt_rounds: 99\nturn_allow_guests: perhaps")

    assert "bcrypt_rounds" in told
    assert "turn_allow_guests" in told


def test_mistakes_are_told_in_the_order_of_the_files(refused: Refused) -> None:
    told = refused("turn_allow_guests: perhaps\nbcrypt_rounds: 99", "max_upload_size: lots")

    assert told.index("turn_allow") < told.index("bcrypt") < told.index("max_upload")


def test_an_unknown_key_is_a_warning_with_the_nearest_one(load: Load) -> None:
    [notice] = load("enable-registration: true").notices

    assert notice.is_warning
    assert notice.message == "unknown key, ignored; did you mean enable_registration?"


def test_an_unknown_key_in_a_block_is_a_warning(load: Load) -> None:
    [notice] = load("redis: {host-: r}").notices

    assert notice.key == "redis.host-"
    assert "did you mean host?" in notice.message


def test_strict_refuses_unknown_keys(refused: Refused) -> None:
    assert "unknown key" in refused("enable_registraton: false", strict=True)


def test_a_known_key_without_effect_is_noted_once(load: Load) -> None:
    [notice] = load("manhole: 9000").notices

    assert (notice.key, notice.message) == ("manhole", "not yet effective")
    assert not notice.is_warning


def test_an_empty_block_without_effect_says_nothing(load: Load) -> None:
    assert load("old_signing_keys:\nsaml2_config:\n").notices == ()


def test_the_type_of_a_key_without_effect_is_checked(refused: Refused) -> None:
    assert "max_upload_size: expected a size" in refused("max_upload_size: huge")


def test_a_default_written_out_says_nothing(load: Load) -> None:
    assert load("report_stats: false").notices == ()


def test_a_missing_file_is_told_plainly(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="does not exist"):
        load_settings([tmp_path / "none.yaml"], {})


def test_broken_yaml_is_told_with_its_line(refused: Refused) -> None:
    assert "0.yaml:4: not valid YAML" in refused("a: 1\nb: [1\n")


def test_a_key_written_twice_is_noticed(load: Load) -> None:
    settings = load("bcrypt_rounds: 4\nbcrypt_rounds: 5")

    assert "written twice" in settings.notices[0].message


def test_rates_may_be_partial(load: Load) -> None:
    limits = load("rc_message: {per_second: 7}\nrc_login: {address: {burst_count: 9}}").rate_limits

    assert limits.rc_message == Rate(7, 10)
    assert limits.rc_login.address == Rate(0.003, 9)
    assert limits.rc_login.account == Rate(0.003, 5)


def test_a_secret_may_stand_in_a_file_of_its_own(load: Load, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("s3cret\n")

    assert load("form_secret_path: secret").secrets.form_secret == "s3cret"


def test_a_secret_given_twice_is_refused(refused: Refused) -> None:
    assert "keep only one" in refused("form_secret: a\nform_secret_path: b")


def test_secrets_do_not_show_in_logs(load: Load) -> None:
    assert "hush" not in repr(load("form_secret: hush\nworker_replication_secret: hush"))


def test_relative_paths_start_at_their_file(load: Load, tmp_path: Path) -> None:
    settings = load("database: {name: sqlite3, args: {database: my.db}}")

    assert settings.database.path == tmp_path / "my.db"
    assert settings.signing_keys.signing_key_path == tmp_path / "example.org.signing.key"


def test_old_keys_are_put_into_todays_form(load: Load) -> None:
    settings = load("use_presence: false\nrc_messages_per_second: 3\nrc_message_burst_count: 4")

    assert settings.presence.enabled is False
    assert settings.rate_limits.rc_message == Rate(3, 4)


def test_the_cache_factor_comes_from_the_environment(load: Load) -> None:
    settings = load("", environ={"SYNAPSE_CACHE_FACTOR": "2"})

    assert settings.caches.caches.factor("anything") == 2


@pytest.mark.parametrize("written", ["much", "-1", "nan", "inf"])
def test_a_cache_factor_from_the_environment_that_makes_no_sense_is_a_mistake(
    load: Load, written: str
) -> None:
    with pytest.raises(SettingsError, match="SYNAPSE_CACHE_FACTOR"):
        load("", environ={"SYNAPSE_CACHE_FACTOR": written})


def test_open_registration_without_proof_is_refused(refused: Refused) -> None:
    assert "registration_requires_token" in refused("enable_registration: true")


def test_a_log_config_may_name_the_classes_of_synapse(load: Load, tmp_path: Path) -> None:
    (tmp_path / "log.yaml").write_text(
        "filters: {context: {(): synapse.util.logcontext.LoggingContextFilter}}\n"
        "handlers:\n  buffer:\n"
        "    class: synapse.logging.handlers.PeriodicallyFlushingMemoryHandler\n"
        "    period: 5\n    capacity: 10\n"
    )

    config = load("log_config: log.yaml").logging.config

    assert config is not None
    assert config["filters"]["context"]["()"] == "hs.lib.log.ContextFilter"
    assert config["handlers"]["buffer"] == {
        "class": "logging.handlers.MemoryHandler",
        "capacity": 1,
    }


def test_odd_log_configs_are_left_to_python(load: Load, tmp_path: Path) -> None:
    (tmp_path / "log.yaml").write_text(
        "formatters: {f: {format: '{request}', style: '{'}}\n"
        "handlers: {a: {class: [odd], filters: odd}, b: odd}\n"
    )

    config = load("log_config: log.yaml").logging.config

    assert config is not None
    assert config["handlers"] == {"a": {"class": ["odd"], "filters": "odd"}, "b": "odd"}


def test_the_log_config_that_synapse_writes_works(
    load: Load, tmp_path: Path, restored_logging: None
) -> None:
    """It names the request in a format, without any filter, and lets lines wait in a buffer."""
    (tmp_path / "log.yaml").write_text(
        "version: 1\n"
        "formatters:\n  precise:\n"
        "    format: '%(name)s - %(levelname)s - %(request)s - %(message)s'\n"
        "handlers:\n"
        f"  file: {{class: logging.handlers.TimedRotatingFileHandler, formatter: precise, "
        f"filename: {tmp_path}/hs.log, when: midnight, backupCount: 3, encoding: utf8}}\n"
        "  buffer: {class: synapse.logging.handlers.PeriodicallyFlushingMemoryHandler, "
        "target: file, capacity: 10, flushLevel: 30, period: 5}\n"
        "root: {level: INFO, handlers: [buffer]}\n"
        "disable_existing_loggers: false\n"
    )
    config = load("log_config: log.yaml").logging.config
    assert config is not None

    logging.config.dictConfig(dict(config))
    logging.getLogger("hs.access").info("a line")

    assert (tmp_path / "hs.log").read_text() == "hs.access - INFO - - - a line\n"


def test_a_log_config_that_does_not_say_so_silences_nobody(
    load: Load, tmp_path: Path, restored_logging: None
) -> None:
    """Python's own default would silence every logger that is there when the file is read."""
    access = logging.getLogger("hs.access")
    (tmp_path / "log.yaml").write_text(
        f"handlers: {{file: {{class: logging.FileHandler, filename: {tmp_path}/hs.log}}}}\n"
        "root: {level: INFO, handlers: [file]}\n"
    )
    config = load("log_config: log.yaml").logging.config
    assert config is not None

    logging.config.dictConfig(dict(config))
    access.info("a line")

    assert (tmp_path / "hs.log").read_text() == "a line\n"
