"""Where a language model answers, as the user names it: address, model and key, checked before anything is sent."""

import importlib.util
import ipaddress
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import SplitResult, urlsplit

from nic_ray.errors import InputError

KEY_NAMES = ("NIC_RAY_LLM_KEY", "OPENAI_API_KEY")
"""Environment variables that hold the key; the first that is set counts."""
CHAT = "/chat/completions"
_KEY = re.compile(r"[!-~]+")
_VERSION = re.compile(r"/v\d+\w*(/|$)")


@dataclass(frozen=True)
class Endpoint:
    """An OpenAI-compatible chat endpoint, and how it is asked."""

    url: str
    """As the user gave it, without a slash at its end."""
    model: str
    key: str | None = field(default=None, repr=False)
    temperature: float = 0.7
    seed: int = 0
    answer_tokens: int | None = None
    """Number of tokens after which an answer is cut off; None for enough for the questions, if the model does not
    think before it answers."""
    concurrency: int = 4
    """Number of requests that are on their way at once."""
    timeout_s: float = 300.0
    """Time for one answer."""
    attempts: int = 5
    """How often a request is sent while it fails for reasons that may pass."""
    backoff_s: float = 1.0
    """The wait before the second attempt; it doubles from one to the next."""

    @property
    def bases(self) -> tuple[str, ...]:
        """Addresses that its paths may follow, the most likely first."""
        path = urlsplit(self.url).path
        if _VERSION.search(path):
            return (self.url,)
        return (f"{self.url}/v1", self.url) if path else (f"{self.url}/v1",)

    @property
    def is_on_this_machine(self) -> bool:
        """Whether its address is one of the loopback interface, which no proxy can reach."""
        host = urlsplit(self.url).hostname or ""
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return host == "localhost" or host.endswith(".localhost")


def checked_url(url: str, option: str = "--llm", keys: Sequence[str] = KEY_NAMES, path: str = CHAT) -> str:
    """Check the address of an endpoint, and cut off what need not stand at its end.

    Args:
        url: as the user gives it.
        option: how the user gives it, for messages.
        keys: environment variables that hold the key, for messages.
        path: the path of the requests, which may stand at its end.

    Raises:
        InputError: it is no address of a server, or holds a password.
    """
    split = _split(url)
    if split is not None and "@" in split.netloc:
        # the address is not repeated, since it holds a secret
        raise InputError(
            f"{option}: an address at {split.hostname} with a user or password in it; take them out, and put the key "
            f"into the environment variable {keys[0]}"
        )
    if split is None or split.scheme not in ("http", "https") or not split.hostname:
        raise InputError(f"{option}: must be an address such as http://127.0.0.1:8000/v1, got {url!r:.200}")
    if split.query or split.fragment:
        raise InputError(f"{option}: must be an address without ? and #, got {url!r:.200}; name the part before it")
    return url.strip().rstrip("/").removesuffix(path).rstrip("/")


def key_in(environment: Mapping[str, str], names: Sequence[str] = KEY_NAMES) -> str | None:
    """Read the key from the environment; None if there is none, as for a server of one's own.

    Args:
        environment: variables by name.
        names: those that may hold the key; the first that is set counts.

    Raises:
        InputError: what is there cannot be a key. The message does not repeat it.
    """
    for name in names:
        if key := environment.get(name, "").strip():
            if not _KEY.fullmatch(key):
                raise InputError(f"{name}: holds a space, or a character that no key has; copy the key again")
            return key
    return None


def refuse_without_httpx2(option: str = "--llm", extra: str = "manuals") -> None:
    """Refuse to ask where httpx2, which does it, is not installed.

    Args:
        option: what needs it, for the message.
        extra: the part of the package's requirements that has it.

    Raises:
        InputError: it is not installed.
    """
    if importlib.util.find_spec("httpx2") is None:
        raise InputError(
            f"{option} needs the package httpx2; install it with: pip install -c constraints.txt -e '.[{extra}]'"
        )


def _split(url: str) -> SplitResult | None:
    try:
        split = urlsplit(url.strip())
        _ = split.port  # refuses what is no number
    except ValueError:
        return None
    return None if any(character.isspace() for character in url.strip()) else split
