"""`python -m nic_ray.serve`: serve an exported model over HTTP, as OpenAI's clients ask for embeddings."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from nic_ray import console


def main(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="exported folder")],
    corpus: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="PAIRS|FOLDER",
            help="passages for /search: of a file of pairs, or of a folder of .txt and .md; may be given several times",
        ),
    ] = None,
    host: Annotated[str, typer.Option(help="address to listen on; one that others reach wants a token")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="port to listen on")] = 8000,
    replicas: Annotated[
        str, typer.Option(metavar="auto|N", help="processes that hold the model; auto: as the load wants, one CPU each")
    ] = "auto",
    form: Annotated[
        Literal["auto", "torch", "onnx", "int8"],
        typer.Option(
            "--format", help="what computes; auto: the fastest of BUNDLE, BUNDLE-onnx and BUNDLE-int8, by measurement"
        ),
    ] = "auto",
    anomaly: Annotated[
        Literal["flag", "off"], typer.Option(help="flag: assess queries, if BUNDLE holds a detector; blocks nothing")
    ] = "flag",
    fallback: Annotated[
        str | None, typer.Option(metavar="MODEL", help="base model to serve if BUNDLE turns out damaged")
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="threads that compute, in each replica")] = 1,
    most_waiting: Annotated[
        int, typer.Option(min=1, help="requests that a replica holds at once; more are answered with 429")
    ] = 64,
    log_queries: Annotated[
        Path | None, typer.Option(metavar="FILE", help="write queries there; otherwise no text is written anywhere")
    ] = None,
) -> None:
    """Serve embeddings (POST /v1/embeddings) and a search over passages (POST /search) until Ctrl-C.

    The environment variable NIC_RAY_SERVE_TOKEN holds the token that clients must send. SIGHUP loads what lies at
    BUNDLE by then, without losing a request. Needs `pip install -c constraints.txt -e '.[serve]'`.
    """
    from nic_ray.service.command import run
    from nic_ray.service.settings import Settings

    settings = Settings(
        corpus=tuple(map(str, corpus or ())),
        form=form,
        anomaly=anomaly,
        fallback=fallback,
        threads=threads,
        most_waiting=most_waiting,
        log_queries=None if log_queries is None else str(log_queries),
    )
    run(bundle, settings, host=host, port=port, replicas=replicas)


if __name__ == "__main__":
    console.run(main)
