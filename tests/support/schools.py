"""A small folder of real-looking data for ``orchard demo --data``: a view and one CSV file per school."""

from pathlib import Path

VIEW = """\
name = "small-schools"
title = "Who passes, by school"
shape = "outcomes"
subject = "learner"

[parameters.school]
about = "the school's name"

[source]
kind = "csv"

[source.tables.learners]
files = "$school.csv"
subject = "learner"

[[features]]
column = "hours"
scale = "z-score"

[[features]]
column = "score"
scale = "z-score"

[label]
name = "passes"
expression = "final >= 10"
meaning = "1: the final grade is 10 or more"

[split]
by = "hash"
train = 0.6
valid = 0.1

[providers]
parameters = ["school"]
values = ["elm", "fir", "gum"]
"""
SCHOOLS = ("elm", "fir", "gum")
HEADER = "learner,hours,score,final"


def small_schools(folder: Path, *, learners: int = 60) -> Path:
    """Write the view and three schools' files; hours and score tell something of the final grade."""
    folder.mkdir(parents=True)
    (folder / "view.toml").write_text(VIEW, encoding="utf-8")
    for school in SCHOOLS:
        rows = [f"{school}-{n},{n % 7},{(n * 5) % 11},{(n % 7) + (n * 5) % 11 + 1}" for n in range(learners)]
        (folder / f"{school}.csv").write_text("\n".join([HEADER, *rows]) + "\n", encoding="utf-8")
    return folder
