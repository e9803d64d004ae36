"""The terminal interface that all commands share: arguments, exit codes for errors, and tables."""

import errno
import functools
import gc
import json
import sys
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from nic_ray.domains import changes_of, omitted_domains, shown_domains
from nic_ray.errors import InputError, RunError, causes_of, is_disk_full, is_utf8
from nic_ray.metrics.table import METRICS, OVER_ALL, macro_cells, metrics_in

if TYPE_CHECKING:
    from rich.table import Table


NEW_OBJECTS = 100_000
"""Threshold of Python's garbage collector while a command runs: the number of new objects that starts a collection.
With the default of 700, collection takes a fifth of the time of the imports and frees nothing; the data that a command
computes with consists of few, large objects."""


def macro_columns(*results: Iterable[str]) -> list[str]:
    """Return the headings of the cells of `table.macro_cells`, for flat metrics."""
    return [f"{metric.replace('_', ' ')} macro" for metric in metrics_in(*results)]


LISTS = ("--data",)
"""Options that take several values, which the parser would want to be repeated before each."""
PairsOption = Annotated[
    list[Path] | None,
    typer.Option(metavar="PATH...", help="files or folders of pairs, used together, instead of the config's"),
]
"""The type of the option --data."""

UNUSABLE = (errno.ENAMETOOLONG, errno.EACCES, errno.ELOOP)
"""Errors of the path itself: too long, access denied, or a loop of links."""


def run(main: Callable[..., None]) -> None:
    """Run a typed function as a standalone command and exit.

    Exit codes: 0 success; 1 `RunError`, or a full disk; 2 `InputError`, a path that cannot be used, or arguments that
    do not parse; 130 interrupted (the exception's message, which may say how to resume, is printed).
    Any other exception is a defect and keeps its traceback.

    Args:
        main: its signature defines the arguments and options, its docstring is the help text.
    """
    gc.set_threshold(NEW_OBJECTS)
    # with markup off, brackets in help texts and in the user's input are printed unchanged
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    app.command()(_with_exit_codes(main))
    app(args=with_lists(sys.argv[1:]))


@dataclass(frozen=True)
class Verbs:
    """A command with several functions, each of which is named on the command line after it."""

    description: str
    functions: Sequence[Callable[..., None]]


def run_one_of(commands: Mapping[str, Callable[..., None] | Verbs], description: str) -> None:
    """Run one of several functions, selected by name on the command line, as `run` does, and exit.

    The program also has the options `--install-completion` and `--show-completion` for the user's shell.
    """
    gc.set_threshold(NEW_OBJECTS)
    app = _app_of(commands, description, completes=True)
    app(args=with_lists(sys.argv[1:]))


def run_verbs(verbs: Verbs) -> None:
    """Run one of a command's functions, selected by its name on the command line, as `run` does, and exit."""
    gc.set_threshold(NEW_OBJECTS)
    app = _app_of({function.__name__: function for function in verbs.functions}, verbs.description, completes=False)
    app(args=with_lists(sys.argv[1:]))


def with_lists(arguments: Sequence[str]) -> list[str]:
    """Repeat an option of `LISTS` before each of its values: `--data a b` becomes `--data a --data b`.

    A list ends at the next option and at a YAML file, which is the configuration.
    """
    repeated: list[str] = []
    option: str | None = None
    for place, argument in enumerate(arguments):
        if argument == "--":
            return [*repeated, *arguments[place:]]
        if argument.startswith("-") or argument.lower().endswith((".yaml", ".yml")):
            option = None
        elif option is not None and repeated[-1] != option:
            repeated.append(option)
        repeated.append(argument)
        option = argument if argument in LISTS else option
    return repeated


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> "Table":
    """Build a table of plain text: first column left-aligned, the others right-aligned; an empty row makes a gap."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    narrow = len(columns) > 9  # three models, two metrics and the passages must fit into 80 columns
    result = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 0 if narrow else 1, 0, 0))
    for number, column in enumerate(columns):
        justify: Literal["left", "right"] = "right" if number else "left"
        # narrow headers, so that eight figures and a name fit into 80 columns
        header = "\n".join(textwrap.wrap(column, width=6, break_long_words=False))
        result.add_column(Text(header), justify=justify, vertical="bottom", overflow="fold")
    for row in rows:
        if row:
            result.add_row(*(Text(cell) for cell in row))
        else:
            result.add_section()
    return result


def metrics_table(
    results: Mapping[str, Mapping[str, float]],
    metrics: Sequence[str] | None = None,
    *,
    passages: Mapping[str, int] | None = None,
) -> "Table":
    """Build a table of models side by side: one row per domain, then the worst domain and the macro mean.

    If there are many domains, only the worst and the best have a row. A value that a model lacks is shown as "-".

    Args:
        results: model name -> flat metrics such as "mrr/radar", in the order of the columns.
        metrics: the metrics to show; None for those of `table.METRICS`. With two models or more, each metric also has a
            column with the gain: the last model's value minus the first's.
        passages: domain -> number of passages that are asked about, for a column of these numbers.
    """
    metrics = [name for name in metrics_in(*results.values()) if name in METRICS] if metrics is None else metrics
    keys = [key.partition("/") for flat in results.values() for key in flat]
    names = dict.fromkeys(name for metric, _, name in keys if metric in metrics)
    domains = [name for name in names if name not in OVER_ALL]
    overall = [name for name in ("worst", "macro") if name in names]
    columns = ["domain", *(["pas-sages"] if passages else [])]
    for metric in metrics:
        models = [*results, "gain"] if len(results) > 1 else results
        columns += [f"{metric.replace('_', ' ')} {model}" for model in models]
    changes = changes_of(results, metrics[0])
    changes = {name: changes.get(name, 0.0) for name in domains}

    def row(name: str) -> list[str]:
        counted = [str(passages.get(name, ""))] if passages else []
        return [name, *counted, *_metrics_values(name, results, metrics)]

    rows = [[omitted_domains(changes)] if name is None else row(name) for name in shown_domains(changes)]
    return table(columns, [*rows, [], *map(row, overall)])


def further_table(results: Mapping[str, Mapping[str, float]]) -> "Table | None":
    """Build a table of the macro means of the metrics besides those of `table.METRICS`; None if there are none.

    Args:
        results: model name -> flat metrics, in the order of the rows.
    """
    metrics = {name: metric for name, metric in metrics_in(*results.values()).items() if name not in METRICS}
    rows = [
        [model, *(f"{flat[key]:.3f}" if (key := f"{name}/macro") in flat else "-" for name in metrics)]
        for model, flat in results.items()
    ]
    return table(["mean over domains", *(metric.label for metric in metrics.values())], rows) if metrics else None


def show_metrics(results: Mapping[str, Mapping[str, float]], passages: Mapping[str, int] | None = None) -> None:
    """Print a `metrics_table` and a `further_table` of models."""
    show(metrics_table(results, passages=passages))
    if (further := further_table(results)) is not None:
        say("")
        show(further)


def rankings_table(rankings: Mapping[str, Mapping[str, float]]) -> "Table":
    """Build a table of what is found by words, by models and by both: one row per ranking, macro metrics in columns.

    Args:
        rankings: the name of a ranking -> flat metrics.
    """
    return table(
        ["ranked by", *macro_columns(*rankings.values())],
        [[name, *macro_cells(flat)] for name, flat in rankings.items()],
    )


def sizes_table(sizes: Iterable[tuple[int, str, int, Mapping[str, float]]]) -> "Table":
    """Build a table of embeddings of several sizes: dimensions, precision, bytes of one embedding, macro metrics.

    Args:
        sizes: these values of each size, the metrics as flat metrics.
    """
    listed = list(sizes)
    rows = [[str(count), precision, f"{size:,}", *macro_cells(flat)] for count, precision, size, flat in listed]
    columns = macro_columns(*(flat for *_, flat in listed))
    return table(["dimensions", "precision", "bytes", *columns], rows)


def show(shown: "Table") -> None:
    """Print a table to stdout, with colours only where a terminal shows them and NO_COLOR is not set."""
    from rich.console import Console

    Console().print(shown)


def say(line: str) -> None:
    """Print a line to stdout and flush it, so that a reader at the other end of a pipe sees it at once."""
    typer.echo(line)
    sys.stdout.flush()


def say_how_to_load(folder: Path) -> None:
    """Print the line of Python that loads a model, quoted so that it can be pasted whatever the folder is called."""
    say(f"load it with: SentenceTransformer({json.dumps(str(folder), ensure_ascii=False)})")


def _app_of(commands: Mapping[str, Callable[..., None] | Verbs], description: str, *, completes: bool) -> typer.Typer:
    app = typer.Typer(
        add_completion=completes,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        help=description,
        no_args_is_help=True,
    )
    app.callback()(lambda: None)
    for name, main in commands.items():
        if isinstance(main, Verbs):
            functions = {function.__name__: function for function in main.functions}
            app.add_typer(_app_of(functions, main.description, completes=False), name=name)
        else:
            app.command(name)(_with_exit_codes(main))
    return app


def _with_exit_codes(main: Callable[..., None]) -> Callable[..., None]:
    # errors are handled inside the parser's handling, which would turn an interrupt into exit code 1
    @functools.wraps(main)
    def command(*args: object, **options: object) -> None:
        try:
            for argument in sys.argv[1:]:
                if not is_utf8(argument):
                    raise InputError(f"{argument!r}: must be UTF-8; rename what it names, or name it otherwise")
            main(*args, **options)
        except (InputError, RunError) as error:
            complain(str(error), label="error: ")
            raise typer.Exit(2 if isinstance(error, InputError) else 1) from None
        except KeyboardInterrupt as error:
            # a second one, while the first is handled, has no message of its own
            said = (str(each) for each in causes_of(error) if isinstance(each, KeyboardInterrupt))
            complain(next(filter(None, said), "interrupted"))
            raise typer.Exit(130) from None
        except Exception as error:
            if isinstance(error, OSError) and error.errno in UNUSABLE and error.filename is not None:
                complain(f"{error.filename}: cannot be used ({error.strerror}); name another place", label="error: ")
                raise typer.Exit(2) from None
            if not is_disk_full(error):
                raise
            place = f"{error.filename}: " if isinstance(error, OSError) and error.filename else ""
            complain(f"{place}no space left on the disk; make room, and run it again", label="error: ")
            raise typer.Exit(1) from None

    return command


def complain(message: str, *, label: str = "") -> None:
    """Print a message to stderr, after a label in red."""
    from rich.console import Console
    from rich.text import Text

    Console(stderr=True).print(Text.assemble((label, "bold red"), message), soft_wrap=True)


def _metrics_values(name: str, results: Mapping[str, Mapping[str, float]], metrics: Sequence[str]) -> list[str]:
    cells = []
    for metric in metrics:
        values = [flat.get(f"{metric}/{name}") for flat in results.values()]
        cells += ["-" if value is None else f"{value:.3f}" for value in values]
        if len(values) > 1:
            first, last = values[0], values[-1]
            cells.append("-" if first is None or last is None else f"{last - first:+.3f}")
    return cells
