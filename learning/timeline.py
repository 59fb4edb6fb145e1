"""A job's timeline: what happened and why, in words that hold no data. It is what `orchard job watch` shows."""

from datetime import datetime

from learning.jobs import JobLine
from learning.ports import Records


def note(records: Records, job_id: str, at: datetime, code: str, text: str) -> None:
    """Add a line to a job's timeline, unless it only repeats the last line with the same code."""
    lines = records.select(JobLine, job_id)
    same = [line for line in lines if line.code == code]
    if same and same[-1].text == text:
        return
    records.add(JobLine(job_id=job_id, number=len(lines) + 1, at=at, code=code, text=text))
