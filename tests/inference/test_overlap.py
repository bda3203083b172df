"""Iteration in another thread behaves like plain iteration."""

import threading
import time

import pytest

from effvim.inference.overlap import ahead


def test_items_come_in_order_and_ahead_of_time():
    made = []

    def items():
        for i in range(10):
            made.append(i)
            yield i

    iterator = ahead(items(), 2)
    assert next(iterator) == 0
    deadline = time.monotonic() + 5
    while len(made) < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(made) == 4  # two in the queue, one that waits for it
    assert list(iterator) == list(range(1, 10))


def test_exceptions_come_at_their_place():
    def items():
        yield 1
        raise KeyError('late')

    iterator = ahead(items())
    assert next(iterator) == 1
    with pytest.raises(KeyError, match='late'):
        next(iterator)


def test_stopping_early_ends_the_threads_and_closes_the_source():
    closed = []

    def items():
        try:
            while True:
                yield 1
        finally:
            closed.append(True)

    before = threading.active_count()
    outer = ahead(ahead(items()))
    assert next(outer) == 1
    outer.close()
    assert closed == [True] and threading.active_count() == before
