"""The examples of the README and the documentation run as they stand, and their links lead somewhere."""

import doctest
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]

FENCE = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\(([^)#\s]+)|<img[^>]* src=\"([^\"]+)\"")


def blocks(text):
    """The Python blocks of a page, each with the line it starts on."""
    return [(text[: found.start(1)].count("\n") + 1, found[1]) for found in FENCE.finditer(text)]


def run_blocks(text, name):
    """Run the blocks one after the other in one namespace; a failure names the line of the page."""
    names = {"__name__": name}
    for line, block in blocks(text):
        if block.lstrip().startswith(">>>"):
            example = doctest.DocTestParser().get_doctest(block, names, name, name, line - 1)
            doctest.DebugRunner().run(example, clear_globs=False)
            names.update(example.globs)
        else:
            exec(compile("\n" * (line - 1) + block, name, "exec"), names)


def local_links(page):
    for groups in LINK.findall(page.read_text()):
        target = "".join(groups)
        if "://" not in target and not target.startswith("mailto:"):
            yield target


@pytest.mark.parametrize(
    "page", [page for page in PAGES if blocks(page.read_text())], ids=lambda page: page.stem
)
def test_examples_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_blocks(page.read_text(), str(page))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    missing = [target for target in local_links(page) if not (page.parent / target).exists()]
    assert missing == []


def test_the_readme_has_examples():
    assert len(blocks((ROOT / "README.md").read_text())) >= 6


def test_the_conditions_under_the_readmes_plot_are_those_of_its_records():
    from batchnorm.study import records, report

    study = records.read(ROOT / "docs/assets/study-records.jsonl")
    conditions = report.conditions(study, report.experiments(study)[0])
    assert conditions in " ".join((ROOT / "README.md").read_text().split())


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("```python\nx = 1\n```\n\n```python\nassert x == 2\n```\n", AssertionError),
        ("```python\n>>> 1 + 1\n3\n```\n", doctest.DocTestFailure),
    ],
    ids=["statements", "prompt"],
)
def test_a_wrong_example_fails(text, error):
    with pytest.raises(error):
        run_blocks(text, "page.md")
