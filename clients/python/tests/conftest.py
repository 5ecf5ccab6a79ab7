"""Runs async tests on a loop whose time they move. After each of them, nothing may be left."""

import asyncio
from collections.abc import Iterator

import pytest
from invented import Scene


@pytest.fixture
def scene() -> Iterator[Scene]:
    """The scene of one test."""
    scene = Scene()
    asyncio.set_event_loop(scene.loop)
    yield scene
    asyncio.set_event_loop(None)
    scene.loop.close()


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Runs a test that is a coroutine, and closes its scene."""
    if not asyncio.iscoroutinefunction(pyfuncitem.obj):
        return None
    scene = pyfuncitem.funcargs["scene"]
    assert isinstance(scene, Scene)
    arguments = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}

    async def run() -> None:
        await pyfuncitem.obj(**arguments)
        await scene.close()

    scene.loop.run_until_complete(run())
    return True
