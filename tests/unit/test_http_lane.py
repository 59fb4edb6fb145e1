"""Threads for short requests: as many as needed, no more than allowed; results and errors come back to the loop."""

import asyncio
import threading

import pytest

from connector.http.lane import Lane


def test_results_and_errors_come_back():
    """What the work returns is returned, what it raises is raised, off the loop's thread."""

    async def run() -> None:
        lane = Lane(2)
        assert await lane.run(lambda number: number + 1, 41) == 42
        assert await lane.run(threading.current_thread) is not threading.main_thread()
        with pytest.raises(LookupError, match="nothing there"):
            await lane.run(_fail)
        assert await lane.run(lambda: "still there") == "still there"

    asyncio.run(run())


def test_no_more_at_once_than_allowed():
    """Twelve pieces of work on three threads: three at once at the most, three when there is enough to do."""
    lock, inside, most = threading.Lock(), [0], [0]
    together = threading.Barrier(3, timeout=20)

    def work() -> None:
        with lock:
            inside[0] += 1
            most[0] = max(most[0], inside[0])
        together.wait()
        with lock:
            inside[0] -= 1

    async def run() -> None:
        lane = Lane(3)
        await asyncio.gather(*(lane.run(work) for _ in range(12)))

    asyncio.run(run())
    assert most == [3]


def test_work_whose_caller_has_gone_runs_to_its_end():
    """A cancelled request leaves its transaction whole, and the thread is free for the next."""
    begun, go_on, ended = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        go_on.wait(20)
        ended.set()

    async def run() -> None:
        lane = Lane(1)
        task = asyncio.create_task(lane.run(work))
        await asyncio.to_thread(begun.wait, 20)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        go_on.set()
        assert await lane.run(ended.is_set)

    asyncio.run(run())


def _fail() -> None:
    raise LookupError("nothing there")
