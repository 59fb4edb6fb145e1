"""Several threads' work done in one go: nothing is lost, nothing is done twice, nobody is left waiting."""

import threading

from contracts.gathering import Gathering


def test_what_comes_while_one_is_at_it_is_taken_along():
    """The one at work gets the others' things after its own; they get nothing to do."""
    gathering: Gathering[str] = Gathering()
    batches = gathering.batches("a")
    assert next(batches) == ["a"]
    assert list(gathering.batches("b")) == []
    assert list(gathering.batches("c")) == []
    assert next(batches) == ["b", "c"]
    assert list(batches) == []
    assert list(gathering.batches("d")) == [["d"]]


def test_a_batch_has_an_end():
    """Fifty at once; the rest comes in the next one, in order."""
    gathering: Gathering[int] = Gathering()
    batches = gathering.batches(0)
    next(batches)
    for number in range(1, 121):
        assert list(gathering.batches(number)) == []
    found = list(batches)
    assert [len(batch) for batch in found] == [50, 50, 20]
    assert [one for batch in found for one in batch] == list(range(1, 121))


def test_many_threads_lose_nothing():
    """Whoever is at it, each thing is done exactly once."""
    gathering: Gathering[int] = Gathering()
    done: list[int] = []

    def work(first: int) -> None:
        for number in range(first, first + 200):
            for batch in gathering.batches(number):
                done.extend(batch)

    threads = [threading.Thread(target=work, args=(1000 * start,)) for start in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(done) == sorted(1000 * start + number for start in range(8) for number in range(200))
