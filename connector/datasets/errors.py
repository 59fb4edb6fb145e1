"""What can be wrong with a dataset's file: always the provider's own to mend."""

from typing import Literal


class DatasetError(Exception):
    """A dataset cannot be found, read or published; one sentence that names the file and what to do."""

    code = "dataset-invalid"
    whose: Literal["ours"] = "ours"


class DatasetUnknownError(DatasetError):
    """No dataset file here has this name or id."""

    code = "dataset-unknown"
