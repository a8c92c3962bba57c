"""Work in the background: it is done when the block is left, and its errors are raised there."""

import threading

import pytest

from maskc.background import Background


def test_leaving_waits_for_all_that_was_started():
    done, go_on = [], threading.Event()

    def work(number):
        go_on.wait(10)
        done.append(number)

    with Background() as background:
        background.start(work, 1)
        background.start(work, 2)
        assert done == []
        go_on.set()
    assert sorted(done) == [1, 2]


def test_an_error_is_raised_where_the_block_is_left():
    def work():
        raise MemoryError("no room for blocks")

    with pytest.raises(MemoryError, match="no room"), Background() as background:
        background.start(work)


def test_a_block_without_work_starts_no_thread():
    before = threading.active_count()
    with Background():
        assert threading.active_count() == before
