"""The service under Ray Serve: a deployment whose replicas each hold the model and answer requests."""

import asyncio
import hashlib
import logging
import os
import re
import time
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from ray import serve
from ray.serve import Application
from starlette.applications import Starlette

from nic_ray import __version__
from nic_ray.errors import InputError
from nic_ray.evidence import JsonObject
from nic_ray.search.ray_private import keep_version
from nic_ray.service.app import State, application
from nic_ray.service.kept import own_folder
from nic_ray.service.serving import QueryLog, load_serving
from nic_ray.service.settings import Described, Settings, Version
from nic_ray.service.telemetry import instruments
from nic_ray.validation import stored_faults

log = logging.getLogger("nic_ray.service")

NAME = "nic_ray"
"""Name of the application."""
TOKEN_SHA256 = "NIC_RAY_SERVE_TOKEN_SHA256"
"""The environment variable that holds the SHA-256 of the bearer token, where a configuration starts the service."""
STUCK_S = 120.0
"""Time after which a replica whose batch is not done is taken for stuck, and replaced."""
HANDED = 1024
"""Requests that Ray may hand to a replica at least, which itself answers those beyond `most_waiting` with 429."""
QUEUED = 256
"""Requests that wait for a replica while none is there, at each proxy."""


class Replica:
    """One replica: a process with the model."""

    def __init__(self, settings: Settings, metrics_folder: Path | None) -> None:
        logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.WARNING)
        logging.getLogger("nic_ray").setLevel(logging.INFO)
        queries = None if settings.log_queries is None else QueryLog(Path(settings.log_queries))
        self._settings = settings
        self._state = State(settings, instruments(metrics_folder or own_folder() / "metrics"), queries=queries)
        self._wanted: Version | None = None
        self._loading: asyncio.Task[None] | None = None

    def __serve_build_asgi_app__(self) -> Starlette:
        return application(self._state)

    async def reconfigure(self, user_config: JsonObject) -> None:
        """Load the version that is wanted; the one that is served stays until the new one is ready.

        Ray calls this before it sends the first request, and at every reload.
        """
        self._wanted = version = Version.model_validate(user_config)
        if self._state.serving is None:
            await self._load(version)
        else:
            # in the background, because Ray sends no request to a replica until this method has returned
            self._loading = asyncio.create_task(self._reload(version))

    async def check_health(self) -> None:
        """Raise if the model has stopped to compute; Ray then starts another replica in the place of this one."""
        if self._wanted is None:
            raise RuntimeError("user_config names no bundle; see deploy/serve.yaml")
        serving = self._state.serving
        since = None if serving is None else serving.batcher.since
        if since is not None and time.monotonic() - since > STUCK_S:
            raise RuntimeError(f"a batch has been computed for more than {STUCK_S:.0f} s")

    async def _load(self, version: Version) -> None:
        note, settings, current = self._state.instruments.batch, self._settings, self._state.serving
        if current is not None and current.reason is None:  # a sound version is not given up for the fallback
            settings = settings.model_copy(update={"fallback": None})
        serving = await asyncio.to_thread(load_serving, settings, version, note)
        if version == self._wanted:
            self._state.serving, self._state.refused = serving, None
            self._state.instruments.fallback(serving.reason is not None)

    async def _reload(self, version: Version) -> None:
        try:
            await self._load(version)
        except InputError as error:
            log.error("the version that was served stays: %s", error)
            self._state.refused = {"reload": version.reload, "reason": str(error)}
        except Exception as error:
            log.exception("the version that was served stays")
            self._state.refused = {"reload": version.reload, "reason": f"{type(error).__name__}; Ray's logs say more"}


def deployment(
    settings: Settings,
    version: Version | None,
    *,
    replicas: int | tuple[int, int],
    cpus: float,
    metrics_folder: Path | None,
) -> Application:
    """Describe the application to Ray Serve.

    Args:
        version: what is served; None if a Serve configuration names it.
        replicas: their number, or the least and the most, between which Ray follows the load.
        cpus: CPUs that Ray sets apart for each.
        metrics_folder: where the replicas of a machine share what they count; None for `own_folder` of each machine.
    """
    scaling: JsonObject = {"num_replicas": replicas}
    if not isinstance(replicas, int):
        least, most = replicas
        scaling = {
            "autoscaling_config": {
                "min_replicas": least,
                "max_replicas": most,
                "target_ongoing_requests": max(1, settings.most_waiting // 4),
            }
        }
    ingress: Any = serve.ingress(None)(Replica)
    described: Any = serve.deployment(
        name="embeddings",
        max_ongoing_requests=max(HANDED, 2 * settings.most_waiting),
        max_queued_requests=QUEUED,
        ray_actor_options={"num_cpus": cpus, "runtime_env": {"env_vars": {"OMP_NUM_THREADS": str(settings.threads)}}},
        health_check_period_s=5,
        graceful_shutdown_timeout_s=30,
        user_config=None if version is None else version.model_dump(),
        logging_config={"log_level": "WARNING", "enable_access_log": False},
        **scaling,
    )(ingress)
    told = f"{__version__} {settings.model_dump_json()} {metrics_folder}"
    keep_version(described, hashlib.sha256(told.encode()).hexdigest()[:16])
    bound: Application = described.bind(settings, metrics_folder)
    return bound


def application_of(arguments: JsonObject) -> Application:
    """Build the application from the `args` of a Serve configuration, the fields of `Described`.

    The configuration itself names replicas, CPUs and, as `user_config`, the bundle. The token's hash may come from the
    environment variable NIC_RAY_SERVE_TOKEN_SHA256.

    Raises:
        InputError: a field is missing or wrong, or no token is named.
    """
    try:
        wanted = Described.model_validate({"token_sha256": os.environ.get(TOKEN_SHA256)} | arguments)
    except ValidationError as error:
        raise InputError(f"args: {'; '.join(stored_faults(error))}; mend the Serve configuration") from None
    if wanted.token_sha256 is None and not wanted.without_token:
        raise InputError(
            f"args: no token is named, so that everyone could use the service; set {TOKEN_SHA256} on every node, or "
            "without_token: true in the Serve configuration"
        )
    if wanted.token_sha256 is not None and not re.fullmatch("[0-9a-f]{64}", wanted.token_sha256):
        # not repeated, since it may be the token itself
        raise InputError(
            f"{TOKEN_SHA256}: holds no SHA-256, which has 64 digits of 0-9 and a-f and nothing else; set it to what "
            'this prints: printf %s "$NIC_RAY_SERVE_TOKEN" | sha256sum | cut -c 1-64'
        )
    settings = Settings.model_validate(wanted.model_dump(include=set(Settings.model_fields)))
    return deployment(settings, None, replicas=1, cpus=1, metrics_folder=None)
