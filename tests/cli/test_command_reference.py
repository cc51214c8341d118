"""The page of all commands agrees with the commands."""

from pathlib import Path

import click
from click.testing import CliRunner

from hs.cli.command_reference import markdown
from hs.cli.main import cli

PAGE = Path(__file__).parent.parent.parent / "docs" / "command-line.md"


def test_page_is_current() -> None:
    assert PAGE.read_text("utf-8") == markdown(), "write it again: hs reference docs"


def test_page_has_a_section_for_each_command_with_its_options() -> None:
    page = markdown()
    context = click.Context(cli)

    for name in cli.list_commands(context):
        command = cli.get_command(context, name)
        assert command is not None
        section = page.partition(f"\n## hs {name}\n")[2].partition("\n## ")[0]
        for param in command.params:
            if isinstance(param, click.Option):
                assert all(f"`{option}`" in section for option in param.opts), (name, param.name)


def test_command_writes_the_page_into_the_folder(tmp_path: Path) -> None:
    result = CliRunner().invoke(cli, ["reference", str(tmp_path)])

    assert result.exit_code == 0, result.output
    assert (tmp_path / "command-line.md").read_text("utf-8") == markdown()
    assert {path.name for path in tmp_path.iterdir()} == {
        "command-line.md",
        "configuration.md",
        "configuration.schema.json",
    }
