"""What the demo is played on: folders, data, participants, their processes. Made, started, stopped."""

import dataclasses
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from connector.datasets.desk import open_publisher
from connector.datasets.errors import DatasetError
from connector.demo import generator, guest, issuers, learners, participants, plans
from connector.demo.broker import start_broker, write_broker_configuration
from connector.demo.participants import DemoError, Offer, Place
from connector.demo.processes import start, stop
from connector.enrolment import create_authority
from connector.foundation import utc_now
from connector.identity.membership import did_web
from connector.settings import Settings
from connector.sources.opened import open_source
from connector.sources.providers import (
    ProviderEntry,
    bundled_views,
    find_view,
    list_providers,
    list_subjects,
    load_view,
)
from connector.sources.source import Location, SourceError
from learning.views import FeatureView, ViewError

DATASET = "answers"
CLIENT_ID = "orchard"
AI = "ai-provider"
_SYNTHETIC = "synthetic-xapi"
# A school of more made-up learners hands their answers in as a list, as real schools do.
_ONE_BY_ONE = 150
_SHARED_FORK_SERVER = "fork.sock"


@dataclasses.dataclass(frozen=True, kw_only=True)
class School:
    """A data provider of the demo and its learners.

    Of learners in real data nobody knows an age: their school vouches for them and hands in the list (``one_by_one``
    is False).
    """

    place: Place
    entry: ProviderEntry
    learners: Sequence[learners.Learner]
    one_by_one: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stage:
    """Everything that was made before a process starts."""

    root: Path
    ai: Place
    schools: tuple[School, ...]
    view_file: Path
    view: FeatureView
    data: Path
    recipe: plans.Recipe
    broker_port: int
    sign_in_port: int
    synthetic: bool

    @property
    def places(self) -> tuple[Place, ...]:
        """All participants, the AI provider first."""
        return (self.ai, *(school.place for school in self.schools))


@dataclasses.dataclass(kw_only=True)
class Running:
    """The processes of a stage, by what they are."""

    broker: subprocess.Popen[bytes]
    apis: dict[str, subprocess.Popen[bytes]] = dataclasses.field(default_factory=dict)
    workers: dict[str, subprocess.Popen[bytes]] = dataclasses.field(default_factory=dict)
    sign_in: subprocess.Popen[bytes] | None = None

    def stop(self) -> None:
        """End every process; none is left when this returns."""
        sign_in = [self.sign_in] if self.sign_in is not None else []
        stop([*self.apis.values(), *self.workers.values(), *sign_in, self.broker])


def choose_data(
    data: Path | None, root: Path, count: int | None, seed: int, learners: int | None = None
) -> tuple[Path, Path, list[ProviderEntry]]:
    """Return the view file, the data folder and the providers in it; without a folder, made-up schools.

    Raises:
        DemoError: the folder is not there, no view fits it, or it holds too few providers.
    """
    if data is None:
        schools = _made_up(len(generator.SCHOOLS) if count is None else count, learners)
        made = {school.name: school for school in (generator.ONE_MORE, *schools)}
        generator.generate(root / "data", schools=tuple(made.values()), seed=seed)
        view_file = next(path for path in bundled_views() if path.stem == _SYNTHETIC)
        data = root / "data"
        entries = [
            ProviderEntry(name=school.name, parameters={"school": school.name}, rows=0, subjects=school.learners)
            for school in schools
        ]
    else:
        if not data.is_dir():
            raise DemoError(f"there is no folder {data}: give --data a folder of one data set")
        try:
            view_file = find_view(data)
            entries = list_providers(load_view(view_file), data)
        except (ViewError, SourceError) as error:
            raise DemoError(str(error)) from error
        entries = entries[: count or len(entries)]
    if len(entries) < 2:  # noqa: PLR2004 - a sum of one hides nobody
        raise DemoError(f"{data} holds {len(entries)} providers under this view; training together needs two at least")
    return view_file, data, entries


def make_stage(
    root: Path,
    *,
    data: Path | None,
    count: int | None,
    seed: int,
    base_port: int | None,
    database_url: str | None,
    parameters: Mapping[str, str],
    learners_in_all: int | None = None,
) -> Stage:
    """Make the data space in ``root``: an authority, a broker's users, one AI provider and the data providers."""
    root.mkdir(parents=True, exist_ok=True)
    view_file, folder, entries = choose_data(data, root, count, seed, learners_in_all)
    view = load_view(view_file)
    recipe = plans.recipe_for(view.name, view.shape)
    purpose, algorithm_class = plans.recipe_purpose(recipe)
    create_authority(root / "authority")
    ports = participants.free_ports(len(entries) + 3, base_port)
    slugs = [AI, *(f"school-{_slug(entry.name)}" for entry in entries)]
    urls = write_broker_configuration(root / "broker", ports[-2], [*slugs, guest.SLUG])
    guest.write_broker_url(root / "broker", urls[guest.SLUG])
    names = ["AI provider", *(_title(view.name, entry) for entry in entries)]
    places = [
        Place(slug=slug, name=name, folder=root / slug, port=port)
        for slug, name, port in zip(slugs, names, ports, strict=False)
    ]
    for index, place in enumerate(places):
        participants.make_participant(
            place,
            root / "authority",
            role=AI if index == 0 else "data-provider",
            organisation=f"{place.name} (organisation)",
            broker_url=urls[place.slug],
            database_url=_database(database_url, place.slug),
            socket_path=root / _SHARED_FORK_SERVER,
        )
    common = Offer(
        view=view_file,
        data=folder,
        parameters=_own_parameters(view, parameters),
        purpose=purpose,
        algorithm_class=algorithm_class,
        recipients=[did_web(places[0].address)],
    )
    schools = []
    for place, entry in zip(places[1:], entries, strict=True):
        jwks, sign_in = issuers.create_issuer(place.folder), f"http://127.0.0.1:{ports[-1]}"
        participants.trust_learners_of(place, issuer_of(place), jwks, sign_in, CLIENT_ID)
        participants.trust_staff_of(place, staff_issuer_of(place), jwks, sign_in, CLIENT_ID)
        offer = dataclasses.replace(common, parameters={**common.parameters, **entry.parameters})
        participants.write_dataset(place, DATASET, offer)
        schools.append(_school(place, entry, view, folder, offer.parameters, synthetic=data is None))
    if data is None:
        _make_guest(root, folder, common)
    return Stage(
        root=root,
        ai=places[0],
        schools=tuple(schools),
        view_file=view_file,
        view=view,
        data=folder,
        recipe=recipe,
        broker_port=ports[-2],
        sign_in_port=ports[-1],
        synthetic=data is None,
    )


def _make_guest(root: Path, data: Path, common: Offer) -> None:
    """Lay out what a school that joins by hand needs; the demo itself never looks at it again."""
    school = generator.ONE_MORE.name
    offer = dataclasses.replace(common, parameters={**common.parameters, "school": school})
    people = learners.read_roster(data / school / "roster.json")
    guest.write_guest(root / guest.SLUG, f"School {school}", offer, people)


def publish(stage: Stage) -> None:
    """Publish each school's dataset, as ``orchard dataset publish`` does."""
    for school in stage.schools:
        publish_dataset(school.place, DATASET)


def publish_dataset(place: Place, name: str) -> None:
    """Publish one dataset of one participant."""
    try:
        with open_publisher(Settings.load(place.folder), now=utc_now) as publisher:
            publisher.publish(publisher.folder.named(name))
    except DatasetError as error:
        raise DemoError(f"{place.name}: {error}") from error


def start_stage(stage: Stage) -> Running:
    """Start the broker and every API; once all are ready, start the workers, which nobody waits for yet."""
    running = Running(broker=start_broker(stage.root / "broker", stage.broker_port))
    try:
        for place in stage.places:
            running.apis[place.slug] = participants.start_api(place)
        participants.wait_ready(stage.places, [running.apis[place.slug] for place in stage.places])
        for place in stage.places:
            running.workers[place.slug] = participants.start_worker(place)
    except BaseException:
        running.stop()
        raise
    return running


def open_sign_in(stage: Stage, running: Running) -> None:
    """Start the sign-in service where a visitor chooses which learner or guardian to be."""
    configuration = stage.root / "sign-in.json"
    learning = [
        {
            "slug": school.place.slug,
            "name": school.place.name,
            "issuer": issuer_of(school.place),
            "client_id": CLIENT_ID,
            "redirect_uri": f"{school.place.address}/my/signed-in",
            **issuers.key_of(school.place.folder),
            "learners": [dataclasses.asdict(learner) for learner in school.learners],
        }
        for school in stage.schools
    ]
    staff = [_staff_realm(school.place) for school in stage.schools]
    configuration.write_text(json.dumps(learning + staff) + "\n", encoding="utf-8")
    command = [sys.executable, "-m", "connector.demo.sign_in", str(configuration), str(stage.sign_in_port)]
    running.sign_in = start(command, stage.root / "logs" / "sign-in.log")


def _staff_realm(place: Place) -> dict[str, Any]:
    return {
        "slug": f"{place.slug}-staff",
        "name": f"{place.name}, staff",
        "issuer": staff_issuer_of(place),
        "client_id": CLIENT_ID,
        "redirect_uri": f"{place.address}/operate/signed-in",
        "audience": did_web(place.address),
        **issuers.key_of(place.folder),
        "staff": [
            {"subject": "office", "name": "School office", "scope": "admin"},
            {"subject": "dpo", "name": "Data protection officer", "scope": "read audit"},
        ],
    }


def staff_issuer_of(place: Place) -> str:
    """Return the issuer whose access tokens operate a school in the demo."""
    return f"https://staff.{place.slug}.example"


def issuer_of(place: Place) -> str:
    """Return the issuer whose tokens speak for a school's learners in the demo."""
    return f"https://lms.{place.slug}.example"


def _school(
    place: Place, entry: ProviderEntry, view: FeatureView, data: Path, parameters: Mapping[str, str], *, synthetic: bool
) -> School:
    if synthetic:
        people = learners.read_roster(data / parameters["school"] / "roster.json")
    else:
        source = open_source(view, Location(folder=data, parameters=parameters))
        people = [learners.Learner(subject=subject) for subject in list_subjects(source)]
    return School(place=place, entry=entry, learners=people, one_by_one=synthetic and len(people) <= _ONE_BY_ONE)


def _made_up(count: int, learners_in_all: int | None) -> tuple[generator.School, ...]:
    try:
        return generator.more_schools(count, learners_in_all)
    except ValueError as error:
        raise DemoError(str(error)) from error


def _own_parameters(view: FeatureView, given: Mapping[str, str]) -> dict[str, str]:
    unknown = sorted(set(given) - set(view.parameters))
    if unknown:
        raise DemoError(
            f"view {view.name} has no parameter {unknown[0]} (it has: {', '.join(view.parameters) or 'none'})"
        )
    return dict(given)


def _database(url: str | None, slug: str) -> str:
    if url is None:
        return "sqlite:///orchard.sqlite"
    if "{participant}" not in url:
        raise DemoError("--database-url needs {participant} in it: every participant has a database of its own")
    return url.replace("{participant}", slug.replace("-", "_"))


def _slug(name: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in name.lower())


def _title(view: str, entry: ProviderEntry) -> str:
    return f"{'Hospital' if view == 'heart-disease' else 'School'} {entry.name}"
