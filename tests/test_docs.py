"""Paths in the documentation exist in the repository."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [
    *(ROOT / name for name in ("README.md", "SECURITY.md", "CONTRIBUTING.md")),
    *(ROOT / name for name in ("benchmarks/README.md", "clients/README.md")),
    *sorted(ROOT.glob("docs/**/*.md")),
]
# A page names paths from the repository, from its own folder, or from one of these.
BASES = (".", "tests", "clients/remotelr", "service/remotelr_service")
FOLDERS = "benchmarks|clients|docs|examples|migrations|requirements|service|tests"
SUFFIXES = "cfg|json|md|py|sh|sql|svg|toml|txt|yml"


def paths(page: Path) -> list[str]:
    """The targets of relative links, and the paths in backticks outside of code blocks, without the names of tests."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    links = re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", text)
    quoted = [name.partition("::")[0] for name in re.findall(r"`([^`\s]+)`", text)]
    named = [name for name in quoted if re.fullmatch(rf"[\w./-]+/[\w.-]+\.({SUFFIXES})|({FOLDERS})/[\w./-]*", name)]
    return sorted({*links, *named})


def exists(page: Path, path: str) -> bool:
    return any((base / path).exists() for base in (page.parent, *(ROOT / name for name in BASES)))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_path_of_a_page_exists(page: Path):
    assert [] == [path for path in paths(page) if not exists(page, path)]


def test_the_pages_have_paths():
    counts = {str(page.relative_to(ROOT)): len(paths(page)) for page in PAGES}

    assert sum(counts.values()) > 100
    assert 0 < min(counts[name] for name in ("README.md", "SECURITY.md", "CONTRIBUTING.md", "docs/failures.md"))
