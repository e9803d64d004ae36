"""Options that several commands have."""

from pathlib import Path
from typing import Annotated, Literal, TypeAlias

import typer

Device: TypeAlias = Annotated[
    Literal["auto", "cpu", "cuda"], typer.Option(help="where texts are embedded; auto: on a GPU if there is one")
]
AsJson: TypeAlias = Annotated[bool, typer.Option("--json", help="print one JSON object instead")]
Corpus: TypeAlias = Annotated[
    Path | None, typer.Option(help="passages that no question asks for, to be ranked, or mined from, as data.corpus is")
]
Metrics: TypeAlias = Annotated[
    str | None,
    typer.Option(metavar="NAME,...", help="metrics besides recall@5 and mrr, such as ndcg@10,map,precision@3"),
]
