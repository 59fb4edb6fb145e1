"""Which rows or learners train, validate and test: three ways, each a pure function of its arguments.

A split array is uint8: `TRAIN`, `VALID` or `TEST` per row or learner. `hashed_split` looks at one key at a time, so a
learner keeps its place when others come or withdraw; `fold_split` and `stratified_split` depend on the whole
population, so they must be computed before consent filtering, or a withdrawal would move others between splits.
"""

import hashlib
import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

TRAIN: Final = 0
VALID: Final = 1
TEST: Final = 2
SPLIT_NAMES: Final = ("train", "valid", "test")
_FEWEST_FOLDS: Final = 3
_FEWEST_OF_A_CLASS: Final = 3


class SplitError(ValueError):
    """The asked-for split cannot be made (a share outside (0, 1), a fold that does not exist)."""

    code = "split_invalid"


def hashed_split(keys: Sequence[str], *, train: float, valid: float, salt: str) -> NDArray[np.uint8]:
    """Place each key by SHA-256 of salt and key; the shares hold on average, the rest tests.

    Raises:
        SplitError: shares are negative or add up to more than 1.
    """
    if train < 0 or valid < 0 or train + valid > 1:
        raise SplitError("train and valid must be shares that add up to at most 1")
    draws = np.array([_draw(key, salt) for key in keys], dtype=np.float64)
    places = np.full(len(keys), TEST, dtype=np.uint8)
    places[draws < train + valid] = VALID
    places[draws < train] = TRAIN
    return places


def fold_split(keys: Sequence[str], *, folds: int, test_fold: int, salt: str) -> NDArray[np.uint8]:
    """Deal keys, in hash order, into equal folds: ``test_fold`` tests, the next one validates, the others train.

    Raises:
        SplitError: fewer than 3 folds, or no such fold.
    """
    if folds < _FEWEST_FOLDS or not 0 <= test_fold < folds:
        raise SplitError("there must be at least 3 folds, and the test fold must be one of them")
    order = sorted(range(len(keys)), key=lambda index: (_draw(keys[index], salt), keys[index]))
    places = np.full(len(keys), TRAIN, dtype=np.uint8)
    for rank, index in enumerate(order):
        fold = rank % folds
        if fold == test_fold:
            places[index] = TEST
        elif fold == (test_fold + 1) % folds:
            places[index] = VALID
    return places


def stratified_split(labels: NDArray[Any], *, train_fraction: float, seed: int) -> NDArray[np.uint8]:
    """Split rows into TRAIN and TEST as FLamby does with scikit-learn's ``train_test_split``.

    Rows come in file order after dropping incomplete ones; labels are already 0 or 1. The split is stratified when
    there are two classes with more than two rows each, else plain. It consumes numpy's legacy MT19937 stream in
    scikit-learn's order (StratifiedShuffleSplit, ShuffleSplit), so that published results on these splits can be met.

    Args:
        labels: one label per row, [n].
        train_fraction: share that trains; floor(n * share) rows, the rest up to ceil(n * (1 - share)) tests.
        seed: scikit-learn's ``random_state`` (FLamby: 43).

    Raises:
        SplitError: the share is not inside (0, 1) or leaves a side empty.
    """
    rows = len(labels)
    if not 0 < train_fraction < 1:
        raise SplitError("train_fraction must lie between 0 and 1")
    trained, tested = math.floor(rows * train_fraction), math.ceil(rows * (1.0 - train_fraction))
    if not trained or not tested or trained + tested > rows:
        raise SplitError(f"{rows} rows cannot be split so that both sides hold rows")
    # The legacy generator is the point: only its stream meets splits that were published with it.
    random = np.random.RandomState(seed)
    _, classes = np.unique(labels, return_inverse=True)
    sizes = np.bincount(classes)
    places = np.full(rows, TEST, dtype=np.uint8)
    if len(sizes) == 1 or sizes.min() < _FEWEST_OF_A_CLASS:
        order = random.permutation(rows)
        places[order[tested : tested + trained]] = TRAIN
        return places
    shares = _proportional(sizes, trained, random)
    # The stream also serves the test side's allocation, which comes before the permutations.
    _proportional(sizes - shares, tested, random)
    for number, size in enumerate(sizes):
        members = np.flatnonzero(classes == number)
        order = random.permutation(size)
        places[members[order[: shares[number]]]] = TRAIN
    return places


def _proportional(sizes: NDArray[np.int64], draws: int, random: np.random.RandomState) -> NDArray[np.int64]:
    """Give each class its proportional share of ``draws``; left-over places go to the largest remainders, ties drawn."""
    exact = sizes / sizes.sum() * draws
    shares = np.floor(exact)
    left = int(draws - shares.sum())
    for remainder in np.unique(exact - shares)[::-1]:
        if left <= 0:
            break
        tied = np.flatnonzero(exact - np.floor(exact) == remainder)
        chosen = random.choice(tied, size=min(len(tied), left), replace=False)
        shares[chosen] += 1
        left -= len(chosen)
    counts: NDArray[np.int64] = shares.astype(np.int64)
    return counts


def _draw(key: str, salt: str) -> float:
    digest = hashlib.sha256(f"{len(salt)}:{salt}{key}".encode()).digest()
    return int.from_bytes(digest[:7]) / 2**56
