"""Keep a finished study as the one that the README shows: its records, its figure, and the figure's conditions.

    python tools/make_study_figure.py batchnorm-study [docs/assets]

Writes `study-records.jsonl` and `study.svg`, and prints the conditions for the text under the figure.
"""

import argparse
import shutil
from pathlib import Path

from batchnorm.study import records, report


def main() -> None:
    """Copy the records and draw the figure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("source", type=Path, help="directory of a finished study")
    parser.add_argument("target", type=Path, nargs="?", default=Path("docs/assets"))
    options = parser.parse_args()
    study = records.read(options.source / "records.jsonl")
    shutil.copyfile(options.source / "records.jsonl", options.target / "study-records.jsonl")
    (options.target / "study.svg").write_text(report.readme_figure(study), encoding="utf-8")
    print(report.conditions(study, report.experiments(study)[0]))
    for row in report.rows(study):
        print(f"{row.claim.label}, {row.experiment.short}: {row.effect}, {row.verdict.word.value}")


if __name__ == "__main__":
    main()
