"""Signals to real processes: who ignores them, and who ends although Python has no chance to look at them."""

import ctypes
import os
import signal
import threading
import time

import pytest

from callbacks.care import stop_signals
from callbacks.care.stop_signals import STOP_SIGNALS, StopSignals, handled


def test_a_forked_loader_worker_ignores_the_signal_of_its_group(tmp_path):
    """SLURM and Ctrl-C reach the workers, too; without them the step could not be finished."""
    with handled():
        if not (worker := os.fork()):
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGINT)
            os._exit(5)
        assert os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1]) == 5
        assert STOP_SIGNALS.code == 0


def test_a_main_thread_that_waits_outside_python_is_ended(monkeypatch, capfd):
    """As in the rendezvous of ranks: Python runs no handler before such a call returns."""
    monkeypatch.setattr(stop_signals, "GRACE", 0.2)
    if not (process := os.fork()):
        with handled():
            threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM)).start()
            mutex = ctypes.create_string_buffer(128)
            ctypes.CDLL(None).pthread_mutex_lock(mutex)
            ctypes.CDLL(None).pthread_mutex_lock(mutex)  # for ever; signals do not interrupt it
        os._exit(99)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 143
    assert capfd.readouterr().err == "stopped by SIGTERM while waiting; nothing to save\n"


def test_a_signal_of_an_earlier_command_does_not_end_a_later_one(monkeypatch):
    """Its thread may still be waiting while the next command of this process has taken over the signals."""
    monkeypatch.setattr(stop_signals, "GRACE", 0.3)
    if not (process := os.fork()):
        own = StopSignals()
        own.install()
        os.write(own._writer, bytes([signal.SIGTERM]))  # announced, and the thread saw it before the handler ran
        time.sleep(0.1)
        own.uninstall()
        own.install()
        time.sleep(1.0)
        os._exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 7


@pytest.mark.parametrize("name", ["SIGKILL", "TERM", "SIG_DFL"])
def test_what_is_no_signal_is_refused(name):
    with pytest.raises(ValueError, match=f"{name} is not a signal"):
        STOP_SIGNALS.add((name,))


def test_a_process_on_its_way_out_keeps_its_exit_code():
    """Launchers repeat their signal; between the end of the command and that of the process it would have killed it."""
    pid = os.fork()
    if not pid:
        own = StopSignals()
        own.install()
        own.deferred = True
        os.kill(os.getpid(), signal.SIGTERM)
        own.uninstall(leaving=True)
        os.kill(os.getpid(), signal.SIGTERM)
        os._exit(own.code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 143
