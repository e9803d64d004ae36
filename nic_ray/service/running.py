"""A service from its start to its end: what is refused first, Ray Serve, reloads, and the way it is stopped."""

import contextlib
import functools
import hashlib
import http.client
import ipaddress
import json
import logging
import os
import shutil
import socket
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nic_ray.bundle import files as bundles
from nic_ray.bundle.detector import weights_sha256
from nic_ray.cpus import usable_cpus
from nic_ray.errors import InputError, RunError
from nic_ray.evidence import JsonObject
from nic_ray.model import base
from nic_ray.progress import View
from nic_ray.search.session import joins_a_cluster, ray_session, refuse_what_ray_cannot_use
from nic_ray.service.balancer import switches_of_balancer
from nic_ray.service.engine import GRAPHS
from nic_ray.service.settings import Settings, Version
from nic_ray.sources import is_hub

TOKEN = "NIC_RAY_SERVE_TOKEN"
"""The environment variable that holds the bearer token."""
START_S, RELOAD_S = 1800.0, 600.0
"""Longest wait for a start, and for a reload; the embedding of a large corpus is part of both."""
ROUTED_S = 60.0
"""Longest wait for the proxy to know of a replica that is there."""
UNANSWERED = (OSError, http.client.HTTPException, ValueError)
"""Errors of a request that was not answered, or not by the service itself."""
AGREED = 5
"""Answers in turn that must come from a new version; with several replicas, each may be another's."""
SWITCHES = {
    # one thread and one event loop for a request, not three: a third of Ray's time per request
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
    "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0",
    "RAY_SERVE_REQUEST_PATH_LOG_BUFFER_SIZE": "1000",
    "RAY_SERVE_LOG_TO_STDERR": "0",
    "RAY_worker_niceness": "0",  # Ray's 15 makes requests wait for whatever else this machine does
}


@dataclass(frozen=True)
class Place:
    """Where a service listens, and how many replicas it has."""

    host: str = "127.0.0.1"
    port: int = 8000
    replicas: int | None = None
    """Their number; None lets Ray follow the load, up to the number of CPUs but one."""
    token: str | None = field(default=None, repr=False)
    """The bearer token, by which the command itself asks the service."""


@dataclass(frozen=True)
class Running:
    """A service that runs."""

    url: str
    version: Callable[[], JsonObject]
    """What `GET /version` answers."""
    reload: Callable[[Callable[[], bool]], str]
    """Serve what lies at the bundle's path now, without losing a request, and wait for it until the argument returns
    True. Returns what came of it, in a sentence."""


def token_sha256(token: str | None) -> str | None:
    """The hash of a token, under which the service knows it; None for none.

    Raises:
        InputError: the token cannot stand in a header.
    """
    if token is None:
        return None
    if not token.isascii() or any(character.isspace() for character in token):
        raise InputError(f"{TOKEN}: holds a space, or a character that no header takes; use letters and digits")
    return hashlib.sha256(token.encode()).hexdigest()


def checked(bundle: Path, settings: Settings, place: Place) -> Version:
    """Refuse what cannot be served, before Ray is started.

    Returns:
        the version that lies at the bundle's path.

    Raises:
        InputError: other machines could use the service without a token, the port is taken, there are fewer CPUs than
            replicas, a file is missing, the bundle is not sound and no fallback is named, or that cannot be loaded.
    """
    if settings.token_sha256 is None and not _is_loopback(place.host):
        raise InputError(
            f"--host {place.host}: other machines could use the service without a token; set the environment variable "
            f"{TOKEN} to a secret, or listen on 127.0.0.1"
        )
    _refuse_taken(place)
    if place.replicas is not None and place.replicas > (held := _cpus_of_ray()) and not joins_a_cluster():
        raise InputError(f"--replicas {place.replicas}: each has a CPU, and there are {held}; name at most {held}")
    if settings.log_queries is not None:
        _refuse_unwritable(Path(settings.log_queries))
    for path in settings.corpus:
        if not is_hub(Path(path)) and not Path(path).exists():
            raise InputError(f"--corpus {path}: no such file or folder; name a file of pairs or a folder of texts")
    if settings.fallback is not None:
        base.load(settings.fallback)  # not on the day on which it is needed
    try:
        return _version_at(bundle, 0)
    except InputError as error:
        if settings.fallback is None:
            raise InputError(f"{error}; or name a base model to serve in its place with --fallback") from None
        return Version(bundle=str(bundle))


def _version_at(folder: Path, reload: int) -> Version:
    """Verify the files of a bundle, and name the version.

    Raises:
        InputError: the bundle is not sound.
    """
    metadata, faults = bundles.read_metadata(folder), bundles.find_faults(folder)
    if faults:
        raise InputError(f"{folder}: {'; '.join(faults[:3])}; export the model again")
    return Version(bundle=str(folder), weights_sha256=weights_sha256(metadata), reload=reload)


@contextlib.contextmanager
def service(bundle: Path, settings: Settings, place: Place, view: View) -> Iterator[Running]:
    """Run a service while the context lasts.

    Args:
        view: shows what is waited for, and the dashboard's address.

    Raises:
        InputError: as for `checked`; or Ray cannot be used here.
        RunError: the service does not start.
    """
    settings = _absolute(settings)
    version = checked(bundle.absolute(), settings, place)
    with contextlib.ExitStack() as stack:
        temporary = Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="nic_ray-", ignore_cleanup_errors=True))
        )
        for switch, value in {**SWITCHES, **switches_of_balancer(temporary)}.items():
            os.environ.setdefault(switch, value)
        refuse_what_ray_cannot_use()
        stack.enter_context(ray_session(view, _cpus_of_ray()))
        yield stack.enter_context(_serving(settings, place, version, temporary / "metrics", view))


def _cpus_of_ray() -> int:
    """Number of CPUs of a cluster that is started here; one with a single CPU must hold a replica beside the proxy."""
    return max(2, usable_cpus())


@contextlib.contextmanager
def _serving(settings: Settings, place: Place, version: Version, metrics: Path, view: View) -> Iterator[Running]:
    import ray
    from ray import serve

    from nic_ray.service.deployment import NAME, deployment

    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    joined = joins_a_cluster()
    before = serve.status()
    _refuse_other_service(NAME, before, settings)
    most = max(1, int(ray.cluster_resources().get("CPU", 1)) - 1)
    replicas = place.replicas if place.replicas is not None else (1 if most == 1 else (1, most))

    def deploy(wanted: Version) -> None:
        kept = wanted if joined else _kept(wanted, metrics.parent / "versions")
        app = deployment(settings, kept, replicas=replicas, cpus=1, metrics_folder=metrics)
        target = serve.RunTarget(app, name=NAME, route_prefix="/")
        serve.run_many([target], wait_for_ingress_deployment_creation=False, wait_for_applications_running=False)

    view.say(f"starting {replicas if isinstance(replicas, int) else 'up to ' + str(replicas[1])} replica(s)")
    serve.start(
        proxy_location="EveryNode" if joined else "HeadOnly",
        http_options={"host": place.host, "port": place.port, "request_timeout_s": 600},
    )
    try:
        deploy(version)
        _await_start(NAME, view)
        url = f"http://{f'[{place.host}]' if ':' in place.host else place.host}:{place.port}"
        served = functools.partial(_version_of, url, place.token)
        _await_answer(served)
        yield Running(url, served, _reloader(version, deploy, served))
    finally:
        serve.delete(NAME)
        # on a cluster, unless it ran before or others use it by now
        if not joined or not (before.proxies or serve.status().applications):
            serve.shutdown()


def _refuse_other_service(name: str, status: Any, settings: Settings) -> None:
    """Refuse a cluster that serves a model already, or that would serve it where --host does not say.

    Args:
        status: what `serve.status` returns.
    """
    if name in status.applications:
        raise InputError(
            f"this cluster serves a model already (application {name}): change its configuration and deploy it again, "
            "or end it with serve shutdown"
        )
    if status.proxies and settings.token_sha256 is None:
        raise InputError(
            "this cluster runs Ray Serve already, which listens where it was told to at its start, whatever --host is; "
            f"set the environment variable {TOKEN} to a secret"
        )


def _reloader(
    version: Version, deploy: Callable[[Version], None], served: Callable[[], JsonObject]
) -> Callable[[Callable[[], bool]], str]:
    """Return `Running.reload` for a service that was started with a version."""
    current, tried = version, version.reload

    def reload(given_up: Callable[[], bool]) -> str:
        nonlocal current, tried
        try:
            new = _version_at(Path(current.bundle), tried + 1)
        except InputError as error:
            return f"not reloaded, the version that was served stays: {error}"
        before, current, tried = current, new, new.reload
        deploy(new)
        deadline, agreed = time.monotonic() + RELOAD_S, 0
        while time.monotonic() < deadline and not given_up():
            with contextlib.suppress(*UNANSWERED):  # too busy to answer
                now = served()
                agreed = agreed + 1 if now["reload"] == new.reload else 0
                if agreed == AGREED:
                    return f"reloaded {current.bundle}: {_weights(now)}"
                if (refused := now["refused"]) is not None and refused["reload"] == new.reload:
                    current = before
                    deploy(before)  # what a replica loads that is started from now on
                    return f"not reloaded, the version that was served stays: {refused['reason']}"
            time.sleep(0.1)
        if given_up():
            return f"{current.bundle} was being loaded"
        return f"{current.bundle} was not loaded within {RELOAD_S:.0f} s, what was served stays; Ray's logs say why"

    return reload


def _kept(version: Version, folder: Path) -> Version:
    """A version whose files stay as they were verified, whatever is exported to the bundle's path meanwhile.

    Replicas that are started later load the same. The files are linked where that can be done, and copied elsewhere.
    """
    bundle, place = Path(version.bundle), folder / str(version.reload)
    if version.weights_sha256 is None:  # the bundle is not sound, and a fallback is served
        return version
    if not place.exists():
        for source in [bundle, *(bundle.with_name(f"{bundle.name}-{form}") for form in GRAPHS)]:
            if source.is_dir():
                shutil.copytree(source, place / source.name, copy_function=_link)
    return version.model_copy(update={"bundle": str(place / bundle.name)})


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another disk
        shutil.copy2(source, target)


def _version_of(url: str, token: str | None) -> JsonObject:
    """What `GET /version` answers; asked without a proxy."""
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(urllib.request.Request(f"{url}/version", headers=headers), timeout=60) as answer:
        version: JsonObject = json.load(answer)
    return version


def _await_answer(served: Callable[[], JsonObject]) -> None:
    """Wait until the proxy hands requests to the replica.

    Raises:
        RunError: it does not.
    """
    deadline = time.monotonic() + ROUTED_S
    while True:
        try:
            served()
        except UNANSWERED as error:
            if time.monotonic() > deadline:
                raise RunError(f"the service has started, and does not answer: {error}; Ray's logs say more") from None
            time.sleep(0.1)
        else:
            return


def _weights(version: JsonObject) -> str:
    return f"weights {str(version['weights_sha256'])[:16]}"


def _await_start(name: str, view: View) -> None:
    """Wait until a replica answers.

    Raises:
        RunError: it does not start.
    """
    from ray import serve

    started = said = time.monotonic()
    while True:
        status = serve.status().applications.get(name)
        state = "" if status is None else status.status.value
        if state == "RUNNING":
            return
        message = "" if status is None else " ".join(_last_line(status).split())
        if state in ("DEPLOY_FAILED", "UNHEALTHY") or time.monotonic() - started > START_S:
            raise RunError(f"the service does not start: {message[:600] or state}; Ray's logs say more")
        if time.monotonic() - said > 10:
            said = time.monotonic()
            view.say(f"loading the model and its passages, for {said - started:.0f} s")
        time.sleep(0.1)


def _last_line(status: Any) -> str:
    """The last line of what Ray says of a deployment, which is the error itself after its traceback."""
    said = [deployment.message for deployment in status.deployments.values()] + [status.message]
    lines = [line for message in said for line in message.strip().splitlines() if line.strip()]
    errors = [line for line in lines if "Error" in line]
    return str((errors or lines or [""])[-1])


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _refuse_taken(place: Place) -> None:
    family = socket.AF_INET6 if ":" in place.host else socket.AF_INET
    with contextlib.closing(socket.socket(family)) as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind((place.host, place.port))
        except (OSError, UnicodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "no name of a host"
            raise InputError(
                f"--host {place.host[:80]} --port {place.port}: cannot be listened on ({reason}); choose another"
            ) from None


def _refuse_unwritable(path: Path) -> None:
    if path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
        raise InputError(f"--log-queries {path}: cannot be written; name a file in a folder that you may write to")


def _absolute(settings: Settings) -> Settings:
    """Make paths absolute, since Ray's processes work in other folders."""
    fallback = settings.fallback
    if fallback is not None and Path(fallback).exists():
        fallback = str(Path(fallback).absolute())
    return settings.model_copy(
        update={
            "corpus": tuple(path if is_hub(Path(path)) else str(Path(path).absolute()) for path in settings.corpus),
            "fallback": fallback,
            "log_queries": None if settings.log_queries is None else str(Path(settings.log_queries).absolute()),
        }
    )
