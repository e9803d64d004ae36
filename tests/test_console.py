"""Exit codes and tables."""

import errno
import io
import re
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import pytest
import typer
from rich.console import Console

from nic_ray import console
from nic_ray.errors import InputError, RunError


def exit_code(main, monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["command", *arguments])
    with pytest.raises(SystemExit) as stopped:
        console.run(main)
    return stopped.value.code


def raising(error):
    def main() -> None:
        raise error

    return main


def rendered(shown, width=200):
    printed = io.StringIO()
    Console(file=printed, width=width).print(shown)
    return printed.getvalue()


def cells(shown):
    """The lines below the header of a table, as lists of texts."""
    _, _, below = rendered(shown).partition("──\n")
    return [re.split(r" {2,}", line.strip()) for line in below.splitlines() if line.strip()]


def test_a_command_that_returns_exits_with_0(monkeypatch, capsys):
    def main(name: str, times: Annotated[int, typer.Option()] = 1) -> None:
        print(name * times)

    assert exit_code(main, monkeypatch, "ab", "--times", "2") == 0
    assert capsys.readouterr().out == "abab\n"


@pytest.mark.parametrize(
    ("error", "code", "printed"),
    [
        (InputError("a.yaml: 2 problems\n  x: y"), 2, "error: a.yaml: 2 problems\n  x: y\n"),
        (RunError("all trials failed"), 1, "error: all trials failed\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (
            OSError(errno.ENOSPC, "No space left on device", "/data/a.npy"),
            1,
            "error: /data/a.npy: no space left on the disk; make room, and run it again\n",
        ),
        (
            OSError(errno.ENAMETOOLONG, "File name too long", "/data/aaa"),
            2,
            "error: /data/aaa: cannot be used (File name too long); name another place\n",
        ),
        (
            ValueError("(sqlite3.OperationalError) database or disk is full"),
            1,
            "error: no space left on the disk; make room, and run it again\n",
        ),
    ],
)
def test_errors_are_one_message_on_stderr_and_an_exit_code(error, code, printed, monkeypatch, capsys):
    assert exit_code(raising(error), monkeypatch) == code
    assert capsys.readouterr() == ("", printed)


def test_a_second_interrupt_leaves_the_way_to_go_on(monkeypatch, capsys):
    def main() -> None:
        try:
            try:
                raise KeyboardInterrupt
            except KeyboardInterrupt:
                raise KeyboardInterrupt("interrupted; go on with: the same command") from None
        finally:  # while the cluster is ended
            raise KeyboardInterrupt

    assert exit_code(main, monkeypatch) == 130
    assert capsys.readouterr() == ("", "interrupted; go on with: the same command\n")


def test_arguments_that_are_no_utf8_are_refused(monkeypatch, capsys):
    def main(name: str) -> None:
        raise AssertionError(name)

    assert exit_code(main, monkeypatch, "bad\udcff.jsonl") == 2
    assert (
        capsys.readouterr().err
        == "error: 'bad\\udcff.jsonl': must be UTF-8; rename what it names, or name it otherwise\n"
    )


def test_how_to_load_a_model_can_be_pasted_whatever_its_folder_is_called(capsys):
    console.say_how_to_load(Path('models/a "b" é'))
    assert capsys.readouterr().out == 'load it with: SentenceTransformer("models/a \\"b\\" é")\n'


def test_any_other_error_keeps_its_traceback(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["command"])
    with pytest.raises(ZeroDivisionError, match="a defect"):
        console.run(raising(ZeroDivisionError("a defect")))


def test_markup_emoji_and_long_lines_in_messages_stay_as_they_are(monkeypatch, capsys):
    message = "[red]models[/red]: [/] :boom: " + "long " * 60 + "end"
    exit_code(raising(InputError(message)), monkeypatch)
    assert capsys.readouterr().err == f"error: {message}\n"


@pytest.mark.parametrize("arguments", [["--unknown"], ["a", "b"], []])
def test_arguments_that_do_not_parse_exit_with_2(arguments, monkeypatch, capsys):
    def main(name: str) -> None: ...

    assert exit_code(main, monkeypatch, *arguments) == 2
    assert "Usage: " in capsys.readouterr().err


def test_brackets_in_a_help_text_stay_as_they_are(monkeypatch, capsys):
    def main() -> None:
        """Read [bold]nothing[/bold]."""

    assert exit_code(main, monkeypatch, "--help") == 0
    assert "Read [bold]nothing[/bold]." in capsys.readouterr().out


def test_no_color_is_respected(monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    exit_code(raising(InputError("bad")), monkeypatch)
    assert "\x1b[1;31m" in capsys.readouterr().err
    monkeypatch.setenv("NO_COLOR", "1")
    exit_code(raising(InputError("bad")), monkeypatch)
    assert "31m" not in capsys.readouterr().err


def test_importing_the_console_imports_neither_rich_nor_numpy():
    code = "import sys, nic_ray.console; print(sorted({'numpy', 'torch', 'rich.table'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_one_model_has_no_gain():
    shown = console.metrics_table({"base": {"recall_at_5/radar": 0.5, "mrr/radar": 0.25}})
    assert cells(shown) == [["radar", "0.500", "0.250"]]
    assert "gain" not in rendered(shown)


def test_gain_is_the_last_model_minus_the_first():
    results = {
        "base": {"mrr/radar": 0.5, "mrr/macro": 0.5},
        "first trial": {"mrr/radar": 0.9, "mrr/macro": 0.6},
        "tuned": {"mrr/radar": 0.25, "mrr/macro": 0.75},
    }
    shown = console.metrics_table(results, metrics=["mrr"])
    assert cells(shown) == [
        ["radar", "0.500", "0.900", "0.250", "-0.250"],
        ["macro", "0.500", "0.600", "0.750", "+0.250"],
    ]
    header, _, _ = rendered(shown).partition("──")
    assert header.split()[-5:] == ["domain", "base", "trial", "tuned", "gain"]


def test_the_worst_and_the_macro_mean_come_last_and_other_keys_do_not_appear():
    flat = {"recall_at_5/macro": 0.3, "recall_at_5/worst": 0.2, "recall_at_5/b": 0.4, "recall_at_5/a": 0.2}
    shown = console.metrics_table({"base": flat | {"loss": 1.0, "epoch": 2.0, "mrr/b": 0.1, "other/z": 9.0}})
    assert cells(shown) == [
        ["b", "0.400", "0.100"],
        ["a", "0.200", "-"],
        ["worst", "0.200", "-"],
        ["macro", "0.300", "-"],
    ]


def test_a_value_that_a_model_lacks_has_no_gain():
    shown = console.metrics_table({"base": {"mrr/a": 0.5}, "tuned": {}}, metrics=["mrr"])
    assert cells(shown) == [["a", "0.500", "-", "-"]]


def test_names_in_tables_are_not_markup():
    shown = console.metrics_table({"[red]base": {"mrr/[bold]a[/]": 0.5}}, metrics=["mrr"])
    assert cells(shown) == [["[bold]a[/]", "0.500"]]
    assert "[red]base" in rendered(shown)


def test_three_models_over_two_metrics_fit_80_columns_without_breaking_a_figure():
    flat = {f"{metric}/vehicle_civilian": 0.5 for metric in ("recall_at_5", "mrr")}
    models = ("base", "first trial 1.5 of 3 epochs", "tuned 2.5 to 3 epochs")
    shown = rendered(console.metrics_table(dict.fromkeys(models, flat)), width=80)
    figures = ["0.500", "0.500", "0.500", "+0.000"]
    assert shown.splitlines()[-1].split() == ["vehicle_civilian", *figures, *figures]


def test_a_narrow_terminal_loses_no_text():
    shown = console.table(["name", "rows"], [["a_very_long_domain_name", "1234567"]])
    below = rendered(shown, width=16).splitlines()[2:]
    assert "".join(line[:9].strip() for line in below) == "a_very_long_domain_name"
    assert "".join(line[9:].strip() for line in below) == "1234567"


def test_show_prints_to_stdout(capsys):
    console.show(console.table(["domain"], [["radar"]]))
    printed = capsys.readouterr()
    assert "radar" in printed.out
    assert printed.err == ""
