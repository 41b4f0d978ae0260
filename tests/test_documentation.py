"""The documentation refers to what exists: paths, links, command-line options, pages."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")]
PAGES += sorted(DOCS.glob("*.md"))
#: Paths from the root of the repository, in code spans, code blocks and configuration.
PATH = re.compile(
    r"(?<![\w./~-])(?:(?:bpfast|src|tests|benchmarks|docs|\.ci)/[\w./-]*|[\w-]+\.(?:toml|cff|yaml))"
)
LINK = re.compile(r"\]\(([^)]+)\)", re.MULTILINE)
CODE = re.compile(r"^```\w*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"`([^`\n]+)`")
#: The changes of a release name the files of that release.
CURRENT = [page for page in PAGES if page.name != "CHANGELOG.md"]
over_pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def code_of(page):
    """The code blocks and code spans of a page."""
    text = page.read_text(encoding="utf-8")
    return [*CODE.findall(text), *SPAN.findall(CODE.sub("", text))]


def prose_of(page):
    """The text of a page without its code blocks."""
    return CODE.sub("", page.read_text(encoding="utf-8"))


@pytest.mark.parametrize("page", CURRENT, ids=lambda page: page.name)
def test_paths_exist(page):
    paths = {path.rstrip(".") for code in code_of(page) for path in PATH.findall(code)}
    assert [path for path in sorted(paths) if not (ROOT / path).exists()] == []


def test_paths_are_found_in_the_map():
    paths = {path for code in code_of(ROOT / "CONTRIBUTING.md") for path in PATH.findall(code)}
    assert len(paths) >= 30


@over_pages
def test_links_work(page):
    links = [link for link in LINK.findall(prose_of(page)) if "://" not in link]
    missing = [link for link in links if not (page.parent / link.split("#")[0]).resolve().exists()]
    assert missing == []
    if page.parent == DOCS:  # a site is built from this folder alone
        assert [link for link in links if "/" in link] == []


@over_pages
def test_a_page_has_one_title(page):
    assert len(re.findall(r"^# ", prose_of(page), re.MULTILINE)) == 1


def test_the_index_lists_all_pages():
    listed = {link for link in LINK.findall(prose_of(DOCS / "index.md")) if link.endswith(".md")}
    assert listed == {page.name for page in DOCS.glob("*.md")} - {"index.md"}


def test_the_options_of_shown_commands_exist():
    text = "\n".join("\n".join(code_of(page)) for page in PAGES)
    shown = re.findall(r"bpfast (train|predict|export|gallery)\b([^\n#`]*)", text)
    for command in {command for command, _ in shown}:
        words = [sys.executable, "-P", "-m", "bpfast", command, "--help"]
        usage = subprocess.run(words, capture_output=True, text=True, check=True).stdout
        options = {
            option for name, rest in shown if name == command for option in re.findall(r"--[\w-]+", rest)
        }
        assert [option for option in sorted(options) if option not in usage] == []
