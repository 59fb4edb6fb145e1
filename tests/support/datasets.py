"""A school with a generated source and a dataset file, in a participant's folder."""

import dataclasses
from pathlib import Path

from connector.demo.generator import School, generate
from connector.settings import Settings
from tests.support.participants import enrol

PURPOSE = "https://w3id.org/orchard/KnowledgeTracing"
ALGORITHM = "https://w3id.org/orchard/KnowledgeTracingModel"
AI_PROVIDER = "did:web:ai.example"

DATASET = """\
title = "Answers"
description = "Answers of one school"
keywords = ["maths"]
view = "synthetic-xapi"

[columns]
correct = "the answer was right at the first try"

[location]
folder = "../source"
parameters = { school = "elm" }

[policy]
purpose = "https://w3id.org/orchard/KnowledgeTracing"
valid_from = 2026-01-01T00:00:00Z
valid_until = 2036-01-01T00:00:00Z

[notice]
recipients = ["did:web:ai.example"]
algorithm_class = "https://w3id.org/orchard/KnowledgeTracingModel"

[notice.texts.en]
title = "How we use your answers"
short = "A model learns from your answers; they stay here."
purpose = "help teachers see what is hard"

[notice.texts.de]
title = "Was mit deinen Antworten geschieht"
short = "Ein Modell lernt aus deinen Antworten; sie bleiben hier."
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ElmSchool:
    """A participant with one dataset called ``answers``."""

    settings: Settings
    source: Path
    file: Path

    @property
    def dataset_id(self) -> str:
        """The id that the dataset has by default."""
        return f"{self.settings.server.public_url}/datasets/answers"


def elm_school(folder: Path, *, learners: int = 14) -> ElmSchool:
    """Make the participant, its source and its dataset file; nothing is published."""
    settings = enrol(folder / "elm", folder / "authority", name="Elm School", port=8471)
    generate(settings.folder / "source", schools=[School(name="elm", learners=learners, ability=0.0, focus=1.0)])
    file = settings.catalog.datasets / "answers.toml"
    file.write_text(DATASET, encoding="utf-8")
    return ElmSchool(settings=settings, source=settings.folder / "source" / "elm", file=file)
