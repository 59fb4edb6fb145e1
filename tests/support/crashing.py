"""``orchard serve`` that kills itself at a commit: ``python -m tests.support.crashing DIR``.

While ``DIR/crash.json`` holds ``{"transaction": name, "nth": n, "when": "before" | "after"}``, the n-th transaction of that
name ends in SIGKILL just before or just after its commit. The file is removed first, so that it happens once.
"""

import json
import os
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sqlalchemy import Connection

from connector.cli.serve import serve
from connector.storage.database import Database

ORDER = "crash.json"


def main() -> None:
    """Serve until the order is carried out."""
    folder, seen, lock, open_now = Path(sys.argv[1]), Counter[str](), threading.Lock(), threading.local()
    once, commit = Database._once, Database._commit

    def die(name: str, when: str) -> None:
        with lock:
            if not (folder / ORDER).exists():
                return
            order = json.loads((folder / ORDER).read_text())
            seen[f"{name} {when}"] += 1
            if (name, when) == (order["transaction"], order["when"]) and seen[f"{name} {when}"] == order["nth"]:
                (folder / ORDER).unlink()
                os.kill(os.getpid(), signal.SIGKILL)

    def committing(self: Database, connection: Connection, driver: Any) -> None:
        name = open_now.name
        die(name, "before")
        commit(self, connection, driver)
        die(name, "after")

    def named(self: Database, name: str, work: Callable[[Any], Any], *, writing: bool) -> Any:
        open_now.name = name
        return once(self, name, work, writing=writing)

    Database._once, Database._commit = named, committing  # type: ignore[method-assign]
    serve(folder)


if __name__ == "__main__":
    main()
