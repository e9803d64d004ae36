"""`python -m nic_ray.retrieve`: show what a model retrieves for a query, beside what its base model retrieves."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from nic_ray import console, options


def main(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="exported folder")],
    corpus: Annotated[
        list[Path],
        typer.Option(
            metavar="PAIRS|FOLDER",
            help="passages: of a file of pairs, or of a folder of .txt and .md; given several times, of all files",
        ),
    ],
    queries: Annotated[
        list[str] | None, typer.Argument(metavar="QUERY...", help="questions; without any, they are read from stdin")
    ] = None,
    count: Annotated[int, typer.Option("--top", min=1, help="passages to show for a question")] = 5,
    words: Annotated[
        bool | None,
        typer.Option(
            "--words/--no-words",
            help="rank by words (BM25) as well, or not; without it, as was better on the model's validation rows",
        ),
    ] = None,
    device: options.Device = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="print a JSON object a question instead")] = False,
) -> None:
    """Show the best passages for a question, with cosines, BM25 and domains, beside those of the base model.

    An exported model also states the chance that its first hit answers, and says so when nothing was found. Both were
    set on the passages of its training pairs; with any others, a line says so ("caveat" with --json).
    """
    import json
    from dataclasses import asdict

    from nic_ray.bundle.retriever import describe, retriever
    from nic_ray.hardware import pick_device
    from nic_ray.sources import as_sources

    say = (lambda _: None) if as_json else console.say
    search = retriever(bundle, as_sources(corpus), words=words, say=say, device=pick_device(device, "--device"))
    say(f"ranked by {search.ranking}")
    if search.caveat is not None:
        say(search.caveat)
    if not queries and sys.stdin.isatty():
        console.say("ask, one question a line; an end of file (Ctrl-D) ends it")
    for query in queries or filter(None, map(str.strip, sys.stdin)):
        answer = search.ask(query, count)
        if as_json:
            hits = {model: [asdict(hit) for hit in top] for model, top in answer.hits.items()}
            sure = {"chance": answer.chance, "nothing_found": answer.nothing_found, "caveat": search.caveat}
            print(json.dumps({"query": query, "ranking": search.ranking, **sure, **hits}))
        else:
            console.say(f"\n{query}\n" + "\n".join(describe(answer)))


if __name__ == "__main__":
    console.run(main)
