"""The targets: each is measured by a script, judged from its JSON alone, and shown whatever the verdict is."""

import io
from collections import Counter

import pytest
from rich.console import Console

pytest.importorskip("tomllib", reason="benchmarks/ needs Python 3.11")

from batchnorm.bench.conditions import conditions
from batchnorm.bench.race import Race, Spread
from benchmarks import __main__ as command
from benchmarks import plot, report, targets
from benchmarks.measure import MEMORY, Results, environment, record
from benchmarks.targets import METRICS, Target, Verdict

TARGETS = targets.read()
CASES = {script: {case.name: case for case in targets.script_cases(script)} for script in command.SCRIPTS}


def race(**seconds):
    """A race whose contenders take a constant time."""
    step = {name.replace("_", " "): [value] * 3 for name, value in seconds.items()}
    return Race(step, step)


def results(case, found, script="steps"):
    return {script: Results(script, {"default": conditions()}, {case: record(found)}, complete=True)}


def judge(found, **options):
    target = Target("id", "steps", "case", **options)
    return next(targets.judge([target], results("case", found)))


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: f"{t.id}-{t.case}")
def test_every_target_is_measured(target):
    case = CASES[target.script][target.case]
    metrics = [METRICS[target.metric], *([METRICS[target.where[0]]] if target.where else [])]
    for metric in metrics:
        assert metric.of(race(**dict.fromkeys(case.racers, 1.0))) is not None
    assert (target.at_least is None) != (target.at_most is None)
    if target.noise:
        assert "torch again" in case.racers or "torch.compile again" in case.racers


def test_ids_are_unique_and_case_names_too():
    rows = Counter((target.id, target.case) for target in TARGETS)
    assert max(rows.values()) == 1
    scripts = {}
    for target in TARGETS:
        assert scripts.setdefault(target.id, target.script) == target.script
    for script in command.SCRIPTS:
        assert len(CASES[script]) == len(targets.script_cases(script))


def test_every_script_runs_in_known_memory_and_has_a_quick_case():
    for cases in CASES.values():
        assert {case.memory for case in cases.values()} <= set(MEMORY)
    assert all(any(c.quick for c in cases.values()) for s, cases in CASES.items() if s != "frameworks")


@pytest.mark.parametrize(
    ("options", "verdict"),
    [
        ({"metric": "T", "at_least": 2.0}, Verdict.MET),
        ({"metric": "T", "at_least": 2.1}, Verdict.MISSED),
        ({"metric": "extra µs", "at_most": -1e6}, Verdict.MET),
        ({"metric": "extra µs", "at_most": -1.1e6}, Verdict.MISSED),
        ({"metric": "C", "at_least": 1.0}, Verdict.NOT_MEASURED),
        ({"metric": "T", "at_least": 3.0, "where": ("noise", 1.5)}, Verdict.DOES_NOT_APPLY),
        ({"metric": "T", "at_least": 3.0, "where": ("noise", 0.5)}, Verdict.MISSED),
    ],
)
def test_verdicts(options, verdict):
    found = race(torch=2.0, torch_again=2.0, batchnorm=1.0)
    assert judge(found, **options).verdict is verdict


@pytest.mark.parametrize(("noise", "verdict"), [(True, Verdict.MET), (False, Verdict.MISSED)])
def test_only_torchs_own_noise_excuses_being_slower(noise, verdict):
    found = race(torch=0.96, torch_again=1.0, batchnorm=0.99)
    assert judge(found, metric="T", at_least=1.0, noise=noise).verdict is verdict


def test_noise_excuses_no_more_than_itself():
    found = race(torch=0.96, torch_again=1.0, batchnorm=1.1)
    assert judge(found, metric="T", at_least=1.0, noise=True).verdict is Verdict.MISSED


def test_the_faster_of_several_others_counts():
    found = Race({}, {"copy": [2.0], "copy, non-temporal": [1.0], "batchnorm": [1.5]})
    assert METRICS["of a copy"].of(found) == Spread(1.5, 1.5, 1.5)


def test_a_missed_target_and_one_without_a_time_are_printed():
    found = results("bn (2,3) contiguous", race(torch=1.0, torch_again=1.0, batchnorm=0.5))
    wanted = [
        Target("a", "steps", "bn (2,3) contiguous", "T", at_least=3.0),
        Target("b", "steps", "bn (4,5) contiguous", "T", at_least=3.0),
    ]
    judged = list(targets.judge(wanted, found))
    text = io.StringIO()
    report.print_targets(Console(file=text, width=140), found, judged)
    assert "missed" in text.getvalue()
    assert "2.00 (2.00–2.00)" in text.getvalue()
    assert "1 missed, 1 not measured" in text.getvalue()
    assert "| missed | bn (2,3) contiguous | T | ≥ 3 | 2.00 (2.00–2.00) |" in report.markdown(found, judged)


def test_the_noisiest_row_is_named():
    found = results("quiet", race(torch=1.05, torch_again=1.0)) | results(
        "loud", race(torch=1.5, torch_again=1.0), "bf16"
    )
    assert report.noise(found) == "torch against itself: 1 of 2 rows within ±10 %, the worst +50% (loud)"
    assert report.noise({}) == "torch against itself: not measured"


def test_results_survive_the_file(tmp_path):
    found = results("case", race(torch=1.2345678, batchnorm=0.1))["steps"]
    found.skipped["other"] = "why"
    found.write(tmp_path / "steps.json")
    assert Results.read(tmp_path / "steps.json") == found
    assert report.load(tmp_path) == {"steps": found}
    assert command.finished(tmp_path / "steps.json")


def test_the_plot_comes_from_the_json_alone_and_shows_both_memory_settings():
    found = results("bn + relu (64,64,56,56) contiguous", race(torch=5.0, torch_again=5.0, batchnorm=1.0))
    case = "bn + relu (64,64,56,56) contiguous, huge pages"
    found |= results(case, race(torch=2.6, torch_again=2.6, batchnorm=1.0), script="recycled")
    drawing = plot.draw(found)
    assert drawing == plot.draw(found)
    for text in ("both sides with huge pages", " 5.0<", " 2.6<", "not measured", conditions()["processor"]):
        assert text in drawing


def test_only_the_generated_part_of_the_page_changes(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n")
    found = results("case", race(torch=1.0, batchnorm=0.5))
    report.write_page(found, [], page)
    report.write_page(found, [], page)
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert text.count("## steps") == 1
    assert "old" not in text


def test_memory_settings_reach_the_process(monkeypatch):
    monkeypatch.setenv("THP_MEM_ALLOC_ENABLE", "1")
    assert "THP_MEM_ALLOC_ENABLE" not in environment("recycled")
    assert environment("recycled")["MALLOC_MMAP_THRESHOLD_"]
    assert environment("huge pages")["THP_MEM_ALLOC_ENABLE"] == "1"
