"""The documentation agrees with the files, code and settings that it names."""

import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import pytest
import yaml

from hs.settings.errors import Notice, Problem, SettingsError
from hs.settings.load import load_settings
from hs.storage.database import Database, Tx
from hs.storage.migrate import split_statements

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
PACKAGES = {path.name for path in (ROOT / "hs").iterdir() if path.is_dir()}
LINK = re.compile(r"(?<!!)\[[^]]*\]\(([^)\s]+)\)")
CODE_BLOCK = re.compile(r"^( *)```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
CODE_SPAN = re.compile(r"`([^`\n]+)`")
CODE_PATH = re.compile(r"(?<![\w/.-])hs/[\w/.-]*\w")
FILE_PATH = re.compile(r"[\w.-]+(?:/[\w.-]+)*/?")
DOTTED_NAME = re.compile(r"\bhs(?:\.[a-z_]\w*)+(?:\.[A-Z]\w*)?")
# Keys by which examples of YAML files other than homeserver.yaml are recognized.
OTHER_YAML = {"as_token", "scrape_configs", "formatters"}
# Keys that may be missing from an example, or name a missing file: an example is only a part.
INCOMPLETE_KEYS = {
    "app_service_config_files",
    "database.name",
    "instance_map",
    "redis.enabled",
    "tls_certificate_path",
    "tls_private_key_path",
    "user_consent.template_dir",
}
# A logger without a module, systemd units, and a file in an example.
NAMES_OUTSIDE_CODE = {"hs.access", "hs.service", "hs.target", "hs.dump"}


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path, language: str) -> Iterator[str]:
    """Yield the code blocks of a page, without their indentation."""
    for indent, block_language, text in CODE_BLOCK.findall(page.read_text("utf-8")):
        if block_language == language:
            yield re.sub(rf"^{indent}", "", text, flags=re.MULTILINE)


def prose(page: Path) -> str:
    return CODE_BLOCK.sub("", page.read_text("utf-8"))


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links(page: Path) -> Iterator[tuple[Path, str]]:
    """Yield the file and the anchor of each relative link of a page."""
    for target in LINK.findall(prose(page)):
        if "://" in target or target.startswith("mailto:"):
            continue
        path, _, anchor = unquote(target).partition("#")
        yield (page.parent / path).resolve() if path else page, anchor


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_relative_links_point_to_existing_files_and_headings(page: Path) -> None:
    broken = [
        f"{target}#{anchor}"
        for target, anchor in links(page)
        if not target.exists() or (anchor and anchor not in anchors(target))
    ]

    assert broken == []


def test_every_page_is_reachable_from_the_readme() -> None:
    seen: set[Path] = set()
    waiting = [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        if page not in seen:
            seen.add(page)
            waiting += [target for target, _ in links(page) if target.suffix == ".md"]

    assert [name_of(page) for page in PAGES if page not in seen] == []


def paths_in(page: Path) -> Iterator[str]:
    """Yield the files and folders of this repository that a page names.

    Paths below hs/ are recognized anywhere, other paths only in code spans.
    """
    yield from CODE_PATH.findall(page.read_text("utf-8"))
    folders = {"hs", "docs", "config", "scripts", "tests"}
    if page.name == "ARCHITECTURE.md":
        folders |= PACKAGES
    for span in CODE_SPAN.findall(prose(page)):
        if FILE_PATH.fullmatch(span) and "/" in span and span.split("/")[0] in folders:
            yield span


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_named_paths_exist(page: Path) -> None:
    missing = [path for path in paths_in(page) if not (ROOT / path).exists()]

    assert [path for path in missing if not (ROOT / "hs" / path).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_dotted_names_exist_in_code(page: Path) -> None:
    names = DOTTED_NAME.findall(page.read_text("utf-8"))

    assert [
        name for name in names if name not in NAMES_OUTSIDE_CODE and not exists_in_code(name)
    ] == []


def exists_in_code(name: str) -> bool:
    parent, _, member = name.rpartition(".")
    try:
        importlib.import_module(name)
    except ImportError:
        try:
            return hasattr(importlib.import_module(parent), member)
        except ImportError:
            return False
    return True


def outcome_of(text: str, folder: Path) -> tuple[tuple[Notice, ...], tuple[Problem, ...]]:
    """Return the notices and problems that the server reports for an example."""
    file = folder / "homeserver.yaml"
    name = "" if "server_name" in text else "server_name: example.org\n"
    file.write_text(name + text, "utf-8")
    try:
        return load_settings([file], {}).notices, ()
    except SettingsError as error:
        return error.notices, error.problems


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_yaml_examples_are_valid_and_effective(page: Path, tmp_path: Path) -> None:
    for block in blocks(page, "yaml"):
        if OTHER_YAML & yaml.safe_load(block).keys():
            continue
        notices, problems = outcome_of(block, tmp_path)

        assert [str(notice) for notice in notices if has_no_effect(notice)] == [], block
        assert [str(problem) for problem in problems if problem.key not in INCOMPLETE_KEYS] == [], (
            block
        )


def has_no_effect(notice: Notice) -> bool:
    return notice.is_unknown_key or notice.message == "has no effect in this version"


async def test_sql_examples_run_on_their_engine(database: Database) -> None:
    engine = database.dialect.engine
    examples = [
        block
        for page in PAGES
        for block in blocks(page, "sql")
        if not block.startswith("-- ") or block.startswith(f"-- {engine}\n")
    ]

    async def run(tx: Tx) -> None:
        for example in examples:
            for statement in split_statements(example):
                await tx.fetch(statement)

    assert len(examples) == 3
    await database.write(run)
