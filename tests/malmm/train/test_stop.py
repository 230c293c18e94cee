"""Ctrl-C once waits for the step, twice does not."""

import os
import signal

import pytest

from malmm.train.stop import StopRequest


def test_first_signal_is_a_wish_and_the_second_stops(capsys: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(signal.SIGINT)
    with StopRequest() as request:
        assert request.number == 0
        os.kill(os.getpid(), signal.SIGINT)
        assert request.number == signal.SIGINT
        assert "stopping after this step" in capsys.readouterr().err
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_sigterm_is_a_wish_too() -> None:
    with StopRequest() as request:
        os.kill(os.getpid(), signal.SIGTERM)
        assert request.number == signal.SIGTERM
