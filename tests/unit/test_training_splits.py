"""Splits of rows and learners."""

import numpy as np
import pytest

from learning.splits import TEST, TRAIN, VALID, SplitError, fold_split, hashed_split, stratified_split

KEYS = [f"learner-{number}" for number in range(203)]


def test_hashed_split_keeps_a_learner_in_place_when_others_leave() -> None:
    """A learner's split depends on its own key only, and shares hold roughly."""
    everyone = dict(zip(KEYS, hashed_split(KEYS, train=0.6, valid=0.2, salt="s"), strict=True))
    remaining = KEYS[::3]
    assert hashed_split(remaining, train=0.6, valid=0.2, salt="s").tolist() == [everyone[key] for key in remaining]
    assert 0.5 < np.mean([place == TRAIN for place in everyone.values()]) < 0.7


def test_folds_test_every_learner_once() -> None:
    """Over the folds each learner tests once and validates once, and folds are even."""
    splits = np.stack([fold_split(KEYS, folds=5, test_fold=fold, salt="s") for fold in range(5)])
    assert ((splits == TEST).sum(0) == 1).all()
    assert ((splits == VALID).sum(0) == 1).all()
    assert {*(splits == TEST).sum(1)} <= {40, 41}


def test_folds_do_not_depend_on_the_order_of_keys() -> None:
    """The same population in another order is split the same."""
    split = dict(zip(KEYS, fold_split(KEYS, folds=5, test_fold=2, salt="s"), strict=True))
    turned = KEYS[::-1]
    assert fold_split(turned, folds=5, test_fold=2, salt="s").tolist() == [split[key] for key in turned]


def test_stratified_split_keeps_the_shares_of_both_classes() -> None:
    """Sizes are floor and ceiling of the shares and each class is divided in proportion."""
    labels = np.arange(303) % 303 < 139
    split = stratified_split(labels, train_fraction=0.66, seed=43)
    assert ((split == TRAIN).sum(), (split == TEST).sum()) == (199, 104)
    assert (labels[split == TEST]).sum() in (47, 48)


def test_stratified_split_never_changes() -> None:
    """The members for a seed are pinned, stratified and plain; the FLamby numbers rest on them."""
    labels = np.array([0, 1] * 10)
    assert np.flatnonzero(stratified_split(labels, train_fraction=0.66, seed=43) == TEST).tolist() == [
        0,
        1,
        2,
        4,
        7,
        10,
        15,
    ]
    plain = stratified_split(np.array([0] + [1] * 9), train_fraction=0.66, seed=43)
    assert np.flatnonzero(plain == TEST).tolist() == [3, 6, 8, 9]


def test_impossible_splits_are_refused() -> None:
    """Shares outside their range, missing folds and empty sides are errors."""
    for share in (0.0, 1.0, 0.001):
        with pytest.raises(SplitError):
            stratified_split(np.array([0, 1, 0, 1]), train_fraction=share, seed=1)
    with pytest.raises(SplitError):
        fold_split(KEYS, folds=2, test_fold=0, salt="s")
    with pytest.raises(SplitError):
        hashed_split(KEYS, train=0.9, valid=0.2, salt="s")
