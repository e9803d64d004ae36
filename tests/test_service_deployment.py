"""A replica's versions: what it serves after a reload, without Ray."""

import asyncio
import logging
from types import SimpleNamespace

import pytest

from nic_ray.errors import InputError

pytest.importorskip("ray.serve")
from nic_ray.service import deployment
from nic_ray.service.deployment import Replica
from nic_ray.service.settings import Settings


@pytest.fixture
def replica(monkeypatch, tmp_path):
    """A replica for which the bundle "damaged" is none, and any other sound."""

    def load_serving(settings, version, _):
        if version.bundle == "damaged":
            if settings.fallback is None:
                raise InputError("damaged: another hash")
            return SimpleNamespace(name=settings.fallback, reason="another hash")
        return SimpleNamespace(name=version.bundle, reason=None)

    monkeypatch.setattr(logging, "basicConfig", lambda **_: None)
    monkeypatch.setattr(deployment, "load_serving", load_serving)
    monkeypatch.setattr(
        deployment, "instruments", lambda _: SimpleNamespace(batch=lambda *_: None, fallback=lambda _: None)
    )
    level = logging.getLogger("nic_ray").level
    yield Replica(Settings(fallback="base"), tmp_path)
    logging.getLogger("nic_ray").setLevel(level)


def served_after(replica, *bundles):
    async def load():
        for number, bundle in enumerate(bundles):
            await replica.reconfigure({"bundle": bundle, "reload": number})
            if replica._loading is not None:
                await replica._loading
        return replica._state.serving.name

    return asyncio.run(load())


@pytest.mark.parametrize(
    ("bundles", "served"),
    [
        (["old", "new"], "new"),
        (["damaged"], "base"),
        (["old", "damaged"], "old"),
        (["damaged", "damaged"], "base"),
        (["damaged", "new"], "new"),
    ],
)
def test_a_version_that_is_not_sound_takes_the_place_of_no_other(replica, bundles, served):
    assert served_after(replica, *bundles) == served
    refused = replica._state.refused
    assert refused == ({"reload": 1, "reason": "damaged: another hash"} if bundles == ["old", "damaged"] else None)
