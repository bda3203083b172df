"""Ctrl-C while the files of a video are written."""

import signal
import threading

import pytest

from effvim.video.interrupts import deferred_interrupt


def test_at_the_end_of_the_block():
    done = []
    with pytest.raises(KeyboardInterrupt), deferred_interrupt():
        signal.raise_signal(signal.SIGINT)
        done.append(True)
    assert done
    with deferred_interrupt():
        pass
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_the_second_one_at_once():
    done = []
    with pytest.raises(KeyboardInterrupt), deferred_interrupt():
        signal.raise_signal(signal.SIGINT)
        done.append(1)
        signal.raise_signal(signal.SIGINT)
        done.append(2)
    assert done == [1] and signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_after_an_error():
    with pytest.raises(KeyboardInterrupt) as raised, deferred_interrupt():
        signal.raise_signal(signal.SIGINT)
        raise ValueError('of the block')
    assert str(raised.value.__context__) == 'of the block'


def test_other_handlers(interrupts):
    with deferred_interrupt():
        signal.raise_signal(signal.SIGINT)
        assert interrupts == []
    assert interrupts == [signal.SIGINT]


def test_in_another_thread():
    before, inside = signal.getsignal(signal.SIGINT), []

    def work():
        with deferred_interrupt():
            inside.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert inside == [before]
