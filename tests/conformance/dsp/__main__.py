"""``python -m tests.conformance.dsp --kit FOLDER``: the kit against a served connector, per database; see README.md."""

import argparse
import contextlib
import logging
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import uvicorn

from connector.drivers.outbox import Senders
from connector.drivers.wire import DSP_PATH, PeerWire
from connector.foundation import utc_now
from connector.identity.development import DevelopmentIssuer
from connector.observability import configure_logging
from connector.peers.client import PeerClient
from connector.settings import Settings
from connector.storage.database import Database
from connector.storage.migrate import upgrade
from tests.conformance.dsp import seed
from tests.conformance.dsp.under_test import PARTICIPANT, TOKEN, lay_contracts, open_app, write_settings
from tests.support.databases import running_postgresql
from tests.support.processes import free_port

BAR_SECONDS = 75.0
_DATABASES = ("sqlite", "postgresql")
_START_SECONDS = 30.0
# A run is too short for the optimising compiler: without it the kit needs half the processor time.
_JAVA = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC")


def main() -> int:
    """Run the kit on each database and return 1 when a run was not what it must be."""
    parser = argparse.ArgumentParser(prog="tests.conformance.dsp", description="The DSP kit against this connector.")
    parser.add_argument("--kit", type=Path, required=True, help="folder of the kit's jars")
    parser.add_argument("--db", choices=_DATABASES, action="append", help="only this database")
    parser.add_argument("--only", default="", help="only tests whose name begins so, e.g. CN_C:02")
    options = parser.parse_args()
    if not list(options.kit.glob("*.jar")):
        parser.error(f"{options.kit} holds no jars")
    # What the connector says while the kit plays is only of interest when something fails.
    configure_logging("console")
    logging.getLogger().setLevel(logging.ERROR)
    results = [_run(options.kit, name, options.only) for name in options.db or _DATABASES]
    return int(not all(results))


def _run(kit: Path, database: str, only: str) -> bool:
    with tempfile.TemporaryDirectory(prefix="orchard-kit-") as made, _database(database, Path(made)) as url:
        folder = Path(made)
        started = time.monotonic()
        kit_url = f"http://127.0.0.1:{free_port()}"
        settings = write_settings(folder, port=free_port(), database_url=url)
        print(f"\n== DSP kit {_version(kit)} on {database} ==", flush=True)
        with _served(settings, kit_url):
            good = _play(kit, folder, settings, kit_url, only)
        wall = time.monotonic() - started
        word = "within" if wall <= BAR_SECONDS else "OVER"
        print(f"{database}: wall {wall:.1f} s, {word} the bar of {BAR_SECONDS:.0f} s", flush=True)
        return good


@contextlib.contextmanager
def _database(name: str, folder: Path) -> Iterator[str]:
    if name == "sqlite":
        yield f"sqlite:///{folder / 'orchard.sqlite'}"
        return
    with running_postgresql() as create:
        yield create()


@contextlib.contextmanager
def _served(settings: Settings, kit_url: str) -> Iterator[None]:
    """Serve the connector under test on its port, seeded, until the block ends."""
    upgrade(settings.storage.database_url)
    database = Database(settings.storage.database_url)
    client = PeerClient(issuer=DevelopmentIssuer(PARTICIPANT, TOKEN), permits=lambda url: url.startswith(f"{kit_url}/"))
    senders = Senders(clock=utc_now)
    service = lay_contracts(settings, database, calls=PeerWire(client), doorbell=senders, clock=utc_now)
    senders.serve(service)
    seed.sow(service, kit_url, now=utc_now())
    app = open_app(
        settings,
        service,
        kit_url=kit_url,
        clock=utc_now,
        drivers=(senders,),
        closing=(client.close, database.close),
    )
    config = uvicorn.Config(
        app,
        host=settings.server.host,
        port=settings.server.port,
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=3,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, name="connector-under-test")
    thread.start()
    try:
        deadline = time.monotonic() + _START_SECONDS
        while not server.started:
            if not thread.is_alive() or time.monotonic() > deadline:
                raise RuntimeError("the connector under test did not start")
            time.sleep(0.01)
        yield
    finally:
        server.should_exit = True
        thread.join()


def _play(kit: Path, folder: Path, settings: Settings, kit_url: str, only: str) -> bool:
    properties = seed.kit_settings(
        kit_url=kit_url,
        own_url=settings.server.public_url,
        dsp_url=settings.server.public_url + DSP_PATH,
        participant_id=PARTICIPANT,
        token=TOKEN,
    )
    file = folder / "kit.properties"
    file.write_text("".join(f"{key}={value}\n" for key, value in properties.items()), encoding="utf-8")
    runner = Path(__file__).with_name("Kit.java")
    command = ["java", *_JAVA, "-cp", f"{kit.resolve()}/*", str(runner), str(file), *([only] if only else [])]
    log = folder / "kit.log"
    with log.open("wb") as errors:
        ended = subprocess.run(command, cwd=folder, stderr=errors, check=False)
    if ended.returncode:
        print(log.read_text(encoding="utf-8", errors="replace")[-4000:], file=sys.stderr)
    return ended.returncode == 0


def _version(kit: Path) -> str:
    names = sorted(file.stem.removeprefix("dsp-system-") for file in kit.glob("dsp-system-*.jar"))
    return " and ".join(names) or "of an unknown version"


if __name__ == "__main__":
    sys.exit(main())
