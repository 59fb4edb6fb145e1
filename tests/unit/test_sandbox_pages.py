"""Memory in large pages: the same contents, and no harm where the kernel cannot."""

import mmap
import os

from connector.sandbox import kernel, pages

_MEBIBYTE = 1024 * 1024


def test_gathered_memory_keeps_its_contents() -> None:
    """Every byte reads the same after memory was gathered, also in a child that writes to its own copy."""
    with mmap.mmap(-1, 8 * _MEBIBYTE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        memory[:] = bytes(range(256)) * (8 * _MEBIBYTE // 256)
        assert pages.gather() >= 0
        child = os.fork()
        if child == 0:
            memory[:4] = b"else"
            os._exit(memory[:4] != b"else")
        _, status = os.waitpid(child, 0)
        assert status == 0
        assert memory[:] == bytes(range(256)) * (8 * _MEBIBYTE // 256)


def test_memory_that_is_not_there_is_left_alone() -> None:
    """A refusal by the kernel is an answer, not an error."""
    assert kernel.collapse_pages(0, 2 * _MEBIBYTE) is False
