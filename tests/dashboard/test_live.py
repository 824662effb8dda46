"""What the background polls hold while nobody answers."""

from __future__ import annotations

import socket
import time

import pytest

from dashboard.live import LiveSource


@pytest.fixture
def nobody():
    """An endpoint whose port is reserved and never answered."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        yield f"opc.tcp://127.0.0.1:{s.getsockname()[1]}/nobody"


def test_who_does_not_answer_is_named_and_asked_again_without_blocking_the_page(spec, nobody):
    live = LiveSource(spec, nobody, nobody)
    try:
        live.wait_for_answer(20.0)
        assert live.controller is None
        assert nobody in live.controller_error
        end = time.monotonic() + 20
        while not live.plant_error:
            assert time.monotonic() < end, "the plant's silence must be told"
            time.sleep(0.02)
        assert live.plant is None
        assert nobody in live.plant_error
        live.refresh()
    finally:
        live.close()
    live.close()
