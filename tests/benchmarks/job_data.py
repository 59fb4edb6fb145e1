"""Made-up outcomes for the job benchmark: three equal schools, one CSV file, one view. The same bytes every time."""

import csv
from pathlib import Path

import numpy as np

SCHOOLS = ("north", "east", "south")
_LEARNERS, _INPUTS = 600, 20
_VIEW = """\
name = "bench-outcomes"
title = "Made-up outcomes, by school"
shape = "outcomes"
subject = "learner"

[parameters.school]
about = "the school's name"

[source]
kind = "csv"

[source.tables.rows]
files = "outcomes.csv"
subject = "learner"
types = {{ {types} }}
keep = {{ school = "$school" }}

{features}
[label]
name = "fails"
expression = "y > 0"
meaning = "1: the made-up learner fails"

[split]
by = "hash"
train = 0.7
valid = 0.1

[providers]
parameters = ["school"]
table = "rows"
columns = ["school"]
subject = "learner"
"""


def write_data(folder: Path) -> Path:
    """Write ``outcomes.csv`` and ``view.toml`` into ``folder`` and return it."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(3)
    slope = random.normal(0.0, 0.7, _INPUTS)
    names = [f"x{number:02d}" for number in range(_INPUTS)]
    with (folder / "outcomes.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["learner", "school", *names, "y"])
        for school in SCHOOLS:
            inputs = random.normal(0.0, 1.0, (_LEARNERS, _INPUTS))
            chance = 1 / (1 + np.exp(-inputs @ slope))
            for number, (values, fails) in enumerate(zip(inputs, random.random(_LEARNERS) < chance, strict=True)):
                learner = f"{school}-{number:04d}"
                rows.writerow([learner, school, *(f"{value:.4f}" for value in values), int(fails)])
    features = "".join(f'[[features]]\ncolumn = "{name}"\nscale = "z-score"\n\n' for name in names)
    types = ", ".join(f'{name} = "number"' for name in [*names, "y"])
    (folder / "view.toml").write_text(_VIEW.format(features=features, types=types), encoding="utf-8")
    return folder
