"""Where a language model answers: addresses and keys as users write them, and what is said if it cannot be reached."""

import asyncio
import datetime
import importlib.util
import json
import socket
import ssl
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from nic_ray.errors import InputError
from nic_ray.questions.client import connected
from nic_ray.questions.endpoint import Endpoint, checked_url, key_in, refuse_without_httpx2
from nic_ray.questions.replies import Dialect, adapted, complaint_in, wait_in
from tests.recording_endpoint import Scripted, recording, refusal

ENDPOINT = Endpoint("http://127.0.0.1:1", "tiny")


def reached(endpoint: Endpoint) -> tuple[str, tuple[str, ...]]:
    """The base and the models of an endpoint that is reached."""

    async def reach() -> tuple[str, tuple[str, ...]]:
        async with connected(endpoint) as connection:
            return connection.base, connection.models

    return asyncio.run(reach())


@pytest.mark.parametrize(
    ("given", "checked"),
    [
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000"),
        ("http://127.0.0.1:8000/", "http://127.0.0.1:8000"),
        ("http://127.0.0.1:8000/v1/", "http://127.0.0.1:8000/v1"),
        (" https://api.example.com/v1/chat/completions ", "https://api.example.com/v1"),
        ("http://[::1]:11434", "http://[::1]:11434"),
    ],
)
def test_an_address_is_taken_with_or_without_its_end(given, checked):
    assert checked_url(given) == checked


@pytest.mark.parametrize(
    "url",
    ["localhost:8000", "127.0.0.1:8000", "ftp://host/v1", "http://", "", "http://host:port/v1", "http://[::1", "gpt-5",
     "http://a host/v1", "https:///v1"],
)  # fmt: skip
def test_what_is_no_address_is_refused(url):
    with pytest.raises(InputError, match=r"--llm: must be an address such as http://127\.0\.0\.1:8000/v1, got "):
        checked_url(url)


def test_an_address_with_a_password_is_refused_and_not_repeated():
    with pytest.raises(InputError, match=r"at host with a user or password in it; .*NIC_RAY_LLM_KEY") as error:
        checked_url("https://me:hunter2@host/v1")
    assert "hunter2" not in str(error.value)


def test_an_address_with_a_question_mark_is_refused():
    with pytest.raises(InputError, match="without \\? and #"):
        checked_url("https://host/v1?api-version=1")


@pytest.mark.parametrize(
    ("url", "bases"),
    [
        ("http://host:8000", ["http://host:8000/v1"]),
        ("http://host/v1", ["http://host/v1"]),
        ("https://host/api/paas/v4", ["https://host/api/paas/v4"]),
        ("https://host/v1beta/openai", ["https://host/v1beta/openai"]),
        ("https://host/llm", ["https://host/llm/v1", "https://host/llm"]),
    ],
)
def test_the_version_is_added_to_an_address_that_names_none(url, bases):
    assert list(replace(ENDPOINT, url=url).bases) == bases


@pytest.mark.parametrize(
    ("url", "here"),
    [("http://127.0.0.1:1", True), ("http://localhost/v1", True), ("http://[::1]:1", True), ("http://127.9.9.9", True),
     ("http://10.0.0.1", False), ("http://localhost.example.com", False), ("https://api.example.com", False)],
)  # fmt: skip
def test_addresses_of_this_machine_are_known(url, here):
    assert replace(ENDPOINT, url=url).is_on_this_machine is here


def test_the_first_key_that_is_set_counts():
    assert key_in({}) is None
    assert key_in({"NIC_RAY_LLM_KEY": "", "OPENAI_API_KEY": " b\n"}) == "b"
    assert key_in({"NIC_RAY_LLM_KEY": "a", "OPENAI_API_KEY": "b"}) == "a"


@pytest.mark.parametrize("key", ["se cret", "sécret", "sec\nret", "sec\x00ret"])
def test_what_cannot_be_a_key_is_refused_and_not_repeated(key):
    with pytest.raises(InputError, match="OPENAI_API_KEY: holds a space, or a character that no key has") as error:
        key_in({"OPENAI_API_KEY": key})
    assert "ret" not in str(error.value)


def test_a_key_is_not_shown_with_its_endpoint():
    assert "hunter2" not in repr(replace(ENDPOINT, key="hunter2"))


def test_a_missing_library_is_named_with_the_command_that_installs_it(monkeypatch):
    refuse_without_httpx2()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"httpx2; .*: pip install -c constraints\.txt -e '\.\[manuals\]'"):
        refuse_without_httpx2()


def test_an_endpoint_that_is_not_there_is_said_at_once():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
        begun = time.monotonic()
        with pytest.raises(InputError, match=rf"{url}: no endpoint answers there \(.+\); start the server, or correct"):
            reached(replace(ENDPOINT, url=url))
    assert time.monotonic() - begun < 5


@pytest.mark.parametrize("host", ["no-such-host.invalid", "xn--a"])
def test_a_host_that_has_no_address_is_said(host):
    with pytest.raises(InputError, match="no endpoint answers there"):
        reached(replace(ENDPOINT, url=f"http://{host}:8000"))


@pytest.mark.parametrize(("path", "base"), [("", "/v1"), ("/v1", "/v1"), ("/llm", "/llm")])
def test_the_base_is_where_the_models_are_listed(path, base):
    with recording() as recorded:
        recorded.models_below = base
        assert reached(replace(ENDPOINT, url=recorded.url + path)) == (recorded.url + base, ("tiny",))


@pytest.mark.parametrize(
    "models",
    [refusal(404, "no list"), refusal(401, "no"), refusal(500, "no"), Scripted(body="[]"), Scripted(body='{"data": 3}'),
     Scripted(body="<html>", kind="text/html"), Scripted(hang_up=True), Scripted(body=json.dumps({"data": [{}]}))],
)  # fmt: skip
def test_a_server_that_lists_no_models_is_used_all_the_same(models):
    with recording() as recorded:
        recorded.models = models
        assert reached(replace(ENDPOINT, url=recorded.url)) == (f"{recorded.url}/v1", ())


def test_a_redirection_is_said_before_anything_is_sent():
    with recording() as recorded:
        recorded.models = Scripted(status=301, body="", headers={"Location": "https://elsewhere/v1/models"})
        with pytest.raises(InputError, match=r"v1/models: redirects to https://elsewhere/v1/models \(301\)"):
            reached(replace(ENDPOINT, url=recorded.url))


def test_no_proxy_stands_before_this_machine(monkeypatch):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with recording() as recorded:
        assert reached(replace(ENDPOINT, url=recorded.url))[1] == ("tiny",)


def test_a_proxy_that_fails_is_named_without_its_password(monkeypatch):
    monkeypatch.setenv("http_proxy", "http://me:hunter2@127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "")
    with pytest.raises(InputError, match=r"by way of the proxy 127\.0\.0\.1:9") as error:
        reached(replace(ENDPOINT, url="http://10.255.255.1:8000"))
    assert "hunter2" not in str(error.value)


def test_a_server_without_tls_is_told_from_one_that_is_absent():
    with recording() as recorded, pytest.raises(InputError, match=r"does not speak TLS .*; try http:// in place of"):
        reached(replace(ENDPOINT, url=recorded.url.replace("http:", "https:")))


def test_a_certificate_that_is_not_trusted_is_said_with_a_way_out(tmp_path):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(self_signed(tmp_path))
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            connection, _ = listening.accept()
            with pytest.raises(OSError), context.wrap_socket(connection, server_side=True) as wrapped:  # noqa: PT011
                wrapped.recv(1)

        thread = threading.Thread(target=serve)
        thread.start()
        url = f"https://127.0.0.1:{listening.getsockname()[1]}"
        with pytest.raises(InputError, match=r"certificate is not trusted \(.*self.signed.*\); .* SSL_CERT_FILE"):
            reached(replace(ENDPOINT, url=url))
        thread.join()


def self_signed(folder: Path) -> Path:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(1).not_valid_before(now).not_valid_after(now + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path = folder / "server.pem"
    path.write_bytes(pem + certificate.public_bytes(serialization.Encoding.PEM))
    return path


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("7", 7.0),
        (" 0.5 ", 0.5),
        ("-3", None),
        ("soon", None),
        ("", None),
        ("Wed, 21 Oct 2015 07:28:30 GMT", 30.0),
        ("Wed, 21 Oct 2015 07:27:00 GMT", 0.0),
    ],
)
def test_a_wait_is_read_in_seconds_and_as_a_date(header, seconds):
    now = datetime.datetime(2015, 10, 21, 7, 28, tzinfo=datetime.UTC).timestamp()
    assert wait_in(header, now) == seconds


def test_each_form_of_answers_is_tried_in_turn_and_then_none():
    dialects = [Dialect()]
    while (further := adapted(dialects[-1], "invalid request")) is not None:
        dialects.append(further)
    assert [dialect.form for dialect in dialects] == [0, 1, 2]


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        ('{"error": {"message": "bad key", "type": "x"}}', "bad key"),
        ('{"error": "model \\"x\\" not found"}', 'model "x" not found'),
        ('{"object": "error", "message": "too long", "code": 400}', "too long"),
        ('{"detail": "Not Found"}', "Not Found"),
        ("plain text", "plain text"),
        ("<html><style>b{}</style><h1>502</h1></html>", "502"),
        ("[1]", "[1]"),
    ],
)
def test_the_complaints_of_servers_are_read_in_all_their_forms(body, complaint):
    assert complaint_in(body).strip() == complaint
