"""Where the public data sets that some tests measure on are kept."""

import os
from pathlib import Path


def shared_data(name: str) -> Path:
    """Return a data set's folder: below $ORCHARD_DATA, or ../shared/data beside the checkout."""
    root = Path(os.environ.get("ORCHARD_DATA", Path(__file__).parents[3] / "shared" / "data"))
    folder = root / name
    if not folder.is_dir():
        raise FileNotFoundError(f"no data set {name} in {root}: set ORCHARD_DATA to the folder that holds it")
    return folder
