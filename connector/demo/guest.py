"""What a school that is not in the demo finds there, to join it by hand: data, a dataset file, answers, a broker user."""

import csv
from collections.abc import Sequence
from pathlib import Path

from connector.demo.learners import Learner, refuses_for
from connector.demo.participants import Offer, dataset_text

SLUG = "guest"
URL_FILE = "guest.url"
_REFUSE_SHARE = 0.1


def write_broker_url(folder: Path, url: str) -> None:
    """Write the URL of the guest's broker user beside the broker's configuration, for the owner of the demo only."""
    file = folder / URL_FILE
    file.touch(mode=0o600)
    file.write_text(url + "\n", encoding="utf-8")


def write_guest(folder: Path, name: str, offer: Offer, learners: Sequence[Learner]) -> None:
    """Write ``answers.toml`` (a dataset file over the guest's data) and ``learners.csv`` (what its learners answered)."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "answers.toml").write_text(dataset_text(name, SLUG, offer), encoding="utf-8")
    with (folder / "learners.csv").open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("subject", "decision", "country", "birth_year", "guardian", "verification", "evidence_ref"))
        for one in learners:
            decision = "refuse" if refuses_for(one.subject, _REFUSE_SHARE) else "grant"
            verified = "school-register" if one.guardian else ""
            rows.writerow((one.subject, decision, "DE", one.birth_year, one.guardian, verified, "paper form"))
