"""A job's timeline: what happened and why, in words that hold no data. It is what `orchard job watch` shows."""

from datetime import datetime

from learning.jobs import JobLine
from learning.ports import Records


def note(records: Records, job_id: str, at: datetime, code: str, text: str) -> None:
    """Add a line to a job's timeline, unless it only repeats the last line with the same code.

    Lines are numbered from 1 without a gap. Two transactions may both take the same number; the row decides, and the
    other one takes the next.
    """
    lines = records.select(JobLine, job_id)
    same = [line for line in lines if line.code == code]
    if same and same[-1].text == text:
        return
    number = lines[-1].number + 1 if lines else 1
    while not records.add(JobLine(job_id=job_id, number=number, at=at, code=code, text=text)):
        number += 1
