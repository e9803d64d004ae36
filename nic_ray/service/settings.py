"""What a service is started with, as it is handed from the command to the processes that serve."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

LARGEST_BODY = 8 * 2**20
"""Bytes of a request."""
MOST_TEXTS = 2048
"""Texts of one request, the number that OpenAI's service takes."""
LONGEST_TEXT = 100_000
"""Characters of one text; what lies beyond the model's number of tokens is cut off anyway."""
MOST_HITS = 100


class Settings(BaseModel):
    """Settings of a service that stay as they are while it runs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    corpus: tuple[str, ...] = Field((), description="files or folders of passages to search; none: no /search")
    form: Literal["auto", "torch", "onnx", "int8"] = Field(
        "auto", description="what computes; auto: the fastest, by measurement, of the model and its converted folders"
    )
    anomaly: Literal["flag", "off"] = Field("flag", description="whether queries are assessed, if a detector is there")
    fallback: str | None = Field(None, description="base model that is served while the bundle is not sound")
    token_sha256: str | None = Field(None, description="SHA-256 of the bearer token; null: none is wanted")
    threads: int = Field(1, ge=1, description="threads that compute, in each replica")
    most_waiting: int = Field(
        64, ge=1, description="requests that a replica holds at once; it answers more of them with 429"
    )
    log_queries: str | None = Field(
        None, description="file that queries are written to, with what is said of them; null: no text is written"
    )


class Version(BaseModel):
    """Which version of a bundle is to be served; a change of it is a reload."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bundle: str = Field(min_length=1, description="exported folder; a path that every node can read")
    weights_sha256: str | None = Field(
        None, description="hash of the weights that were there when the reload was asked for; null: any"
    )
    reload: int = Field(0, ge=0, description="number of reloads; a change of it alone is a reload too")


class Described(Settings):
    """The `args` of a Serve configuration, such as that of a RayService on Kubernetes.

    Its `user_config` is a `Version`, by which a new version is loaded without a new process.
    """

    without_token: bool = Field(
        False, description="whether everyone who reaches the service may use it, if no token is named"
    )
