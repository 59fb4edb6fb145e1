"""Commands that run a participant: serve and worker."""

import gc
from pathlib import Path
from typing import Annotated

import typer

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="The participant's folder.")]

# Peers keep connections for 30 s; the side that receives must not close first.
_KEEP_ALIVE_SECONDS = 75
_SHUTDOWN_SECONDS = 3
# New objects between two collections: with Python's default (700) one request or task sets off several.
_COLLECT_AFTER = 20_000


def add_serve_commands(app: typer.Typer) -> None:
    """Add this module's commands to ``app``."""
    app.command("serve")(serve)
    app.command("worker")(worker)


def serve(folder: Folder) -> None:
    """Serve a participant's API until told to stop."""
    # What is imported and wired stays until the end: there is nothing to collect in it, now or later.
    gc.disable()
    import uvicorn

    from connector.app import create_app
    from connector.checks import listen
    from connector.foundation import lay_foundation
    from connector.observability import configure_logging
    from connector.packaging_check import require_own_packages
    from connector.settings import Settings
    from connector.wiring import wire_api

    settings = Settings.load(folder)
    configure_logging(settings.server.log)
    require_own_packages()
    # Before anything is opened: a second `serve` must not touch the first one's database.
    with listen(settings) as listening:
        app = create_app(settings, wire_api(lay_foundation(settings)))
        _collect_what_is_new()
        server = settings.server
        config = uvicorn.Config(
            app,
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=_KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=_SHUTDOWN_SECONDS,
            ssl_certfile=server.certificate,
            ssl_keyfile=server.certificate_key,
        )
        uvicorn.Server(config).run(sockets=[listening])


def worker(
    folder: Folder,
    queues: Annotated[str, typer.Option(help="Which queues to work on, by comma.")] = "control,train,aggregate",
    concurrency: Annotated[int, typer.Option(help="How many tasks at once.", min=1, max=64)] = 4,
    name: Annotated[str, typer.Option(help="This worker's name; one process at a time may bear it.")] = "worker-1",
) -> None:
    """Do a participant's learning work until told to stop."""
    # As in serve.
    gc.disable()
    from connector.observability import configure_logging
    from connector.packaging_check import require_own_packages
    from connector.settings import Settings, SettingsError
    from connector.wiring_worker import lay_worker
    from connector.worker import QUEUES, create_worker, require_broker, run_worker

    wanted = [name.strip() for name in queues.split(",")]
    unknown = [name for name in wanted if name not in QUEUES]
    if unknown:
        raise typer.BadParameter(f"no such queue: {', '.join(unknown)}; there are {', '.join(QUEUES)}")
    settings = Settings.load(folder)
    if not settings.broker.url:
        raise SettingsError([f"{settings.file}: [broker] url is empty; a worker needs the broker it listens to"])
    require_broker(settings)
    configure_logging(settings.server.log)
    require_own_packages()
    wiring = lay_worker(settings, name)
    app = create_worker(settings, wiring)
    _collect_what_is_new()
    try:
        run_worker(app, queues=wanted, concurrency=concurrency, name=f"{name}@{settings.broker.prefix}")
    finally:
        for close in wiring.closing:
            close()


def _collect_what_is_new() -> None:
    gc.freeze()
    gc.set_threshold(_COLLECT_AFTER)
    gc.enable()
