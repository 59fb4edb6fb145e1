"""The demo, step by step: everything goes over the participants' own HTTP interfaces, as any operator's program would."""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from connector.demo import issuers, learners, participants, plans
from connector.demo.participants import DemoError, Place
from connector.demo.stage import DATASET, School, Stage, issuer_of
from connector.identity.membership import did_web
from connector.peers.operator import OperatorClient
from connector.reporting.live import Narrator, tell_events

MARKETING = "https://w3id.org/dpv#Marketing"
WITHDRAW_AFTER = 2
_NEGOTIATION_SECONDS = 30.0
_PREFIX = "https://w3id.org/orchard/"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Contracted:
    """What negotiation led to: the agreement and the catalog entry of each school, by slug."""

    agreements: Mapping[str, str]
    datasets: Mapping[str, Mapping[str, Any]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Consented:
    """What the learners of a school said, and the desk they said it at."""

    desk: learners.ConsentDesk
    asked: learners.Asked
    played: learners.Played


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finished:
    """A job's end as its owner sees it."""

    job: Mapping[str, Any]
    report: Mapping[str, Any] | None
    weights: bytes | None
    withdrawn: learners.Withdrawn | None
    withdrawn_at: datetime | None
    withdrawn_from: str | None


def meet(stage: Stage, ai: OperatorClient, narrator: Narrator) -> dict[str, str]:
    """Let the AI provider get to know each school by its address; return slug -> participant id."""
    found = {}
    for school in stage.schools:
        peer = ai.post("/management/peers", {"address": school.place.address})
        found[school.place.slug] = peer["participant_id"]
        narrator.say(f"{school.place.name} shows a membership of {peer['organisation']}")
    return found


def contract(stage: Stage, ai: OperatorClient, ids: Mapping[str, str], narrator: Narrator) -> Contracted:
    """Find each school's dataset in its catalog and negotiate it to FINALIZED."""
    datasets = {slug: find_dataset(ai, participant) for slug, participant in ids.items()}
    refused_purpose(stage, ai, ids, datasets, narrator)
    started = {
        slug: ai.post("/management/negotiations", {"participant_id": ids[slug], "dataset_id": datasets[slug]["@id"]})
        for slug in ids
    }
    agreements = {}
    for school in stage.schools:
        slug = school.place.slug
        end = wait_negotiation(ai, started[slug]["pid"])
        if end["state"] != "FINALIZED":
            raise DemoError(f"{school.place.name} ended the negotiation: {'; '.join(end['reasons'])}")
        agreements[slug] = end["agreement_id"]
    narrator.say(f"{len(agreements)} negotiations FINALIZED, one agreement per school")
    return Contracted(agreements=agreements, datasets=datasets)


def find_dataset(ai: OperatorClient, participant_id: str) -> Mapping[str, Any]:
    """Return the one dataset that a school offers for training."""
    page = ai.post("/management/catalog/request", {"participant_id": participant_id})
    for dataset in page["datasets"]:
        if any(entry.get("format") == "FederatedTraining" for entry in dataset.get("distribution", [])):
            return dict(dataset)
    raise DemoError(f"{participant_id} offers no dataset for training: run orchard dataset publish there")


def refused_purpose(
    stage: Stage,
    ai: OperatorClient,
    ids: Mapping[str, str],
    datasets: Mapping[str, Mapping[str, Any]],
    narrator: Narrator,
) -> None:
    """Ask the first school for a purpose that it does not allow, to show how that ends."""
    school = stage.schools[0].place
    offer = dict(datasets[school.slug]["hasPolicy"][0])
    offer["permission"] = [_asking(dict(rule), MARKETING) for rule in offer["permission"]]
    body = {"participant_id": ids[school.slug], "dataset_id": datasets[school.slug]["@id"], "offer": offer}
    end = wait_negotiation(ai, ai.post("/management/negotiations", body)["pid"])
    narrator.say(f"asked {school.name} for marketing: {end['state']} ({'; '.join(end['reasons'])})")


def wait_negotiation(ai: OperatorClient, pid: str) -> Mapping[str, Any]:
    """Follow a negotiation to its end."""
    deadline = time.monotonic() + _NEGOTIATION_SECONDS
    while True:
        found: Mapping[str, Any] = ai.get(f"/management/negotiations/{pid}")
        if found["state"] in ("FINALIZED", "TERMINATED"):
            return found
        if time.monotonic() > deadline:
            raise DemoError(f"a negotiation did not end within {_NEGOTIATION_SECONDS:g} s: {found['state']}")
        time.sleep(0.05)


def open_desks(stage: Stage, contracted: Contracted) -> dict[str, tuple[learners.ConsentDesk, learners.Asked]]:
    """Return each school's consent desk and what its learners are asked there."""
    desks = {}
    for school in stage.schools:
        place = school.place
        issuer = issuers.open_issuer(place.folder, issuer=issuer_of(place), audience=did_web(place.address))
        client = learners.learners_client([place.address])
        desk = learners.ConsentDesk(client=client, address=place.address, issuer=issuer, now=utc)
        desks[place.slug] = (desk, desk.asked(str(contracted.datasets[place.slug]["@id"])))
    return desks


def consent(
    school: School, desk: learners.ConsentDesk, asked: learners.Asked, narrator: Narrator, refuse_share: float
) -> Consented:
    """Let a school's learners answer: one by one, or as the school's own list where there are many."""
    grants = sum(not learners.refuses_for(one.subject, refuse_share) for one in school.learners)
    if grants < participants.COHORT_FLOOR <= len(school.learners):
        # In a school this small a refusal would keep the whole job waiting, and the demo with it.
        refuse_share = 0.0
    if school.one_by_one:
        played = desk.play(asked, school.learners, refuse_share=refuse_share)
        how = f"{played.by_guardian} through a guardian"
    else:
        played = desk.import_all(asked, [one.subject for one in school.learners], refuse_share=refuse_share)
        how = "handed in by the school"
    narrator.say(f"{school.place.name}: {len(played.granted)} learners grant, {len(played.refused)} refuse ({how})")
    return Consented(desk=desk, asked=asked, played=played)


def propose(ai: OperatorClient, stage: Stage, contracted: Contracted, options: plans.PlanOptions) -> str:
    """Write, sign and register the training plan; return its digest."""
    properties = [plain(dataset) for dataset in contracted.datasets.values()]
    payload = plans.build_plan(stage.recipe, properties, options)
    return str(ai.post("/management/plans", payload)["plan_digest"])


def start(ai: OperatorClient, plan: str, agreements: Sequence[str]) -> str:
    """Start the job over the agreements."""
    return str(ai.post("/management/jobs", {"plan_digest": plan, "agreements": list(agreements)})["job_id"])


def follow(
    ai: OperatorClient,
    job_id: str,
    rounds: int,
    narrator: Narrator,
    on_round: Callable[[int], None] = lambda _number: None,
) -> Mapping[str, Any]:
    """Tell a job's timeline as it happens; return the job at its end."""
    tell_events(ai.follow_job(job_id), rounds + 1, narrator, on_round)
    found: Mapping[str, Any] = ai.get(f"/management/jobs/{job_id}")
    return found


def cards(stage: Stage, job_id: str) -> dict[str, Mapping[str, Any]]:
    """Return each school's own card; the demo may ask because it plays every operator."""
    found = {}
    for school in stage.schools:
        client = school.place.client()
        found[school.place.slug] = client.get(f"/management/participations/{job_id}")
        client.close()
    return found


def plain(dataset: Mapping[str, Any]) -> dict[str, Any]:
    """Return a catalog entry's own properties without their namespace."""
    return {key.removeprefix(_PREFIX): value for key, value in dataset.items()}


def utc() -> datetime:
    """Return the time; the demo is the outermost shell."""
    return datetime.now(UTC)


def place_ids(stage: Stage) -> dict[str, str]:
    """Return slug -> participant id of every place."""
    return {place.slug: did_web(place.address) for place in stage.places}


def dataset_id(place: Place) -> str:
    """Return the id of the dataset that the demo publishes at a school."""
    return f"{place.address}/datasets/{DATASET}"


def _asking(rule: dict[str, Any], purpose: str) -> dict[str, Any]:
    constraints = [dict(one) for one in rule.get("constraint", [])]
    for one in constraints:
        if one.get("leftOperand") == "purpose":
            one["rightOperand"] = purpose
    return {**rule, "constraint": constraints}
