"""The example of twelve processes assigns every stream and duty, and no duty twice."""

from collections import Counter
from pathlib import Path

from click.testing import CliRunner

from hs.cli.main import cli
from hs.nursery.plan import FEDERATION, Plan, plan_of
from hs.settings.load import load_settings

FOLDER = Path(__file__).parent.parent.parent / "config" / "workers"
SHARED = FOLDER / "shared.yaml"
FILES = [
    [SHARED],
    *([SHARED, path] for path in sorted(FOLDER.glob("*.yaml")) if path != SHARED),
]


def plans() -> list[Plan]:
    return [plan_of(load_settings(files, {})) for files in FILES]


def test_example_has_twelve_processes_and_one_main() -> None:
    names = {plan.instance for plan in plans()}

    assert len(names) == len(FILES) == 12
    assert [plan.instance for plan in plans() if plan.migrates] == ["main"]


def test_every_duty_and_stream_is_assigned_once() -> None:
    single = plan_of(load_settings([FOLDER.parent / "homeserver.yaml"], {}))
    duties = Counter(duty for plan in plans() for duty in plan.duties)
    streams = Counter(stream for plan in plans() for stream in plan.writes)

    assert duties == dict.fromkeys(single.duties, 1)
    assert streams == {**dict.fromkeys(single.writes, 1), "events": 2, "backfill": 2}


def test_main_process_has_only_duties_without_worker() -> None:
    assert plans()[0].duties == (FEDERATION,)


def test_plan_command_accepts_every_process() -> None:
    for files in FILES:
        options = [word for path in files for word in ("--config", str(path))]

        result = CliRunner().invoke(cli, ["plan", *options])

        assert result.exit_code == 0, result.output
        assert not result.stderr
