import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from batchnorm.study import figures, records, report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
COMMITTED = Path(__file__).parents[2] / "docs" / "assets"


@pytest.fixture(scope="module")
def study(study_directory):
    return records.read(study_directory / "records.jsonl")


@pytest.fixture(scope="module")
def page(study):
    return report.render(study)


def verdicts(study):
    return {(row.experiment.name, row.claim.name): row.verdict.word.value for row in report.rows(study)}


def test_the_same_records_give_the_same_bytes_in_any_order_and_process(study_directory, page, tmp_path):
    lines = (study_directory / "records.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (tmp_path / "records.jsonl").write_text("".join(lines[:2] + lines[:1:-1]), encoding="utf-8")
    code = "import sys, pathlib; from batchnorm.study import report; report.write(pathlib.Path(sys.argv[1]))"
    environment = {**os.environ, "PYTHONHASHSEED": "7", "SOURCE_DATE_EPOCH": "1", "TZ": "Asia/Tokyo"}
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, env=environment, timeout=120)
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == page


def test_the_page_needs_no_network(page):
    assert not re.search(r"<(script|link|iframe|img|object|embed|base)\b", page)
    assert not re.search(r"@import|url\(\s*['\"]?(?!#)", page)
    targets = re.findall(r"""(?:href|src|action|srcset|data)\s*=\s*["']([^"']*)""", page)
    assert all(target.startswith("#") for target in targets)
    # what is left of addresses are the names of the SVG vocabulary, which nobody fetches
    left = set(re.findall(r"https?://[^\s\"'<]+", page))
    assert left <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}


def test_every_verdict_stands_on_the_page_with_its_condition(study, page):
    for row in report.rows(study):
        assert row.claim.sentence in page
        assert row.experiment.condition.replace("'", "&#39;") in page
        assert row.effect in page
    assert verdicts(study) == {
        ("he-init", "steps"): "supported",
        ("he-init", "time"): "supported",
        ("he-init", "accuracy"): "supported",
        ("he-init", "rates"): "supported",
        ("default-init", "steps"): "supported",
        ("default-init", "time"): "supported",
        ("default-init", "accuracy"): "supported",
        # three seeds of a sweep whose baseline trains nowhere: bounds only
        ("default-init", "rates"): "inconclusive",
    }
    assert page.count('class="verdict supported"') == 2 * 7


def test_conditions_are_printed(page):
    for text in (
        "torch 0.0",
        "A &lt;fast&gt; processor",
        "9,000 training",
        "5 fresh seeds",
        "2 worker processes",
    ):
        assert text in page


def test_every_seed_is_drawn(study):
    experiment = report.experiments(study)[0]
    drawing = figures.draw("accuracy_by_step", experiment, study.runs)
    for colour in ("var(--baseline)", "var(--treatment)"):
        assert (
            len(re.findall(rf"stroke: {re.escape(colour)}; stroke-opacity: 0.45", drawing))
            == experiment.seeds
        )
        assert len(re.findall(rf"stroke: {re.escape(colour)}; stroke-width: 2.6", drawing)) == 1


@pytest.mark.parametrize("name", sorted(figures.DRAWINGS))
def test_colours_follow_the_page_and_a_file_of_its_own_has_fixed_ones(name, study):
    for experiment in report.experiments(study):
        drawing = figures.draw(name, experiment, study.runs)
        alone = figures.standalone((name,), experiment, study.runs)
        assert not any(stand_in in drawing + alone for stand_in in figures.VARIABLES)
        assert "var(--" in drawing
        assert "var(--" not in alone
        assert drawing.startswith("<svg")
        assert alone.startswith("<?xml")


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_renders_in_a_browser(page, tmp_path, width):
    # a script that only this test adds reports what the browser made of the page
    probe = """<script>
      const wide = document.documentElement.scrollWidth, drawings = [...document.querySelectorAll("svg")];
      const small = drawings.filter(d => d.getBoundingClientRect().height < 100).length;
      document.title = `probe ${wide} ${drawings.length} ${small} ${performance.getEntriesByType("resource").length}`;
    </script></body>"""
    (tmp_path / "page.html").write_text(page.replace("</body>", probe), encoding="utf-8")
    done = subprocess.run(
        [
            CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--window-size={width},1000", "--dump-dom",
            f"--user-data-dir={tmp_path / 'profile'}", f"file://{tmp_path / 'page.html'}",
        ],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    wide, drawings, small, fetched = map(
        int, re.search(r"<title>probe (\d+) (\d+) (\d+) (\d+)", done.stdout).groups()
    )
    # the narrowest window that the browser makes is 500 wide
    assert wide <= max(width, 500)
    assert (drawings, small, fetched) == (9, 0, 0)


def test_the_committed_figure_is_drawn_from_the_committed_records():
    study = records.read(COMMITTED / "study-records.jsonl")
    texts = [re.findall(r">([^<>]+)</text>", svg) for svg in (
        report.readme_figure(study), (COMMITTED / "study.svg").read_text(encoding="utf-8"))]  # fmt: skip
    assert texts[0] == texts[1]
    assert texts[0]
