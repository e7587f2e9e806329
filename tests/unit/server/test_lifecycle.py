import pytest

from inference_server.engine.mock import MockEngine
from inference_server.engine.protocol import EngineUnavailable
from inference_server.lifecycle import Lifecycle, Phase
from tests.unit.server.engines import ClingingEngine
from tests.unit.server.running import an_app


async def test_an_engine_that_never_drains_cannot_hold_the_server() -> None:
    async with an_app(ClingingEngine()) as app:
        assert app.lifecycle.ready
    # Leaving the block ran the shutdown to its end.


async def test_the_engine_is_closed_at_the_end() -> None:
    async with an_app() as app:
        await app.lifecycle.engine.warm_up()
    with pytest.raises(EngineUnavailable):
        await app.lifecycle.engine.warm_up()


async def test_a_signal_that_comes_before_the_start_is_not_forgotten() -> None:
    lifecycle = Lifecycle(MockEngine(), heartbeat_timeout=60)
    lifecycle.begin_drain()
    lifecycle.start()
    assert lifecycle.phase is Phase.DRAINING
    await lifecycle.stop()
    assert not lifecycle.started
