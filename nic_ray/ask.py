"""`python -m nic_ray.ask`: make questions about sections of manuals, and a file of pairs of them."""

from pathlib import Path
from typing import Annotated

import typer

from nic_ray import console, options


def main(
    sections: Annotated[
        list[Path], typer.Argument(metavar="SECTIONS...", help="files of sections, as `sections` writes them")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="file of pairs to write, JSON lines")],
    glossary: Annotated[
        Path | None, typer.Option(help="JSON file of terms and shop words; `terms` proposes its terms")
    ] = None,
    per_section: Annotated[
        int, typer.Option(min=1, max=100, help="at most this many questions a section, a share of them of each kind")
    ] = 10,
    seed: Annotated[int, typer.Option(help="of all draws")] = 42,
    language: Annotated[str, typer.Option(help="of the rules; English has the most")] = "en",
    model: Annotated[
        str, typer.Option(help="model that must lead back to the section: packaged name, folder or hub id")
    ] = "all-MiniLM-L6-v2",
    judge: Annotated[
        Path | None, typer.Option(help="folder of a CrossEncoder that must prefer the section to others")
    ] = None,
    llm: Annotated[
        str | None, typer.Option(metavar="URL", help="OpenAI-compatible endpoint of a model that writes them")
    ] = None,
    llm_model: Annotated[str | None, typer.Option(help="that model, as the endpoint calls it")] = None,
    llm_answer_tokens: Annotated[
        int | None, typer.Option(min=16, help="where an answer is cut off; more for models that think first")
    ] = None,
    budget_calls: Annotated[int | None, typer.Option(min=1, help="at most this many calls of it in this run")] = None,
    budget_tokens: Annotated[int | None, typer.Option(min=1, help="at most this many tokens")] = None,
    concurrency: Annotated[int, typer.Option(min=1, max=256, help="its calls on their way at once")] = 4,
    device: options.Device = "auto",
    address: Annotated[
        str | None, typer.Option(help="Ray cluster whose nodes make questions by rules, instead of RAY_ADDRESS")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace the file of --out")] = False,
) -> None:
    """Make questions from titles, sentences, terms and shop words of sections, or have a language model write them.

    Refused are questions that name nothing, that repeat another or their passage, that are asked of too many sections,
    and those from which neither BM25 nor the model finds the section among its first 20. The rows say `"synthetic":
    true`. The same input and seed give the same file; after an interruption the same command goes on. With `--llm`, the
    model of an endpoint writes all of them; the key comes from NIC_RAY_LLM_KEY or OPENAI_API_KEY, and its answers are
    kept in `OUT.cache/`: what was paid for is not asked again. Needs `pip install -c constraints.txt -e '.[manuals]'`.
    """
    from nic_ray.hardware import pick_device
    from nic_ray.manuals.languages import language_code
    from nic_ray.model.base import load
    from nic_ray.progress import view
    from nic_ray.questions.glossary import read_glossary
    from nic_ray.questions.kept import parts_of
    from nic_ray.questions.making import keep_good, read_all_sections, refuse_place, write_made
    from nic_ray.questions.spending import Budget
    from nic_ray.questions.written import Limits, ask_writer, writer_of
    from nic_ray.search.tasks import ask_on

    refuse_place(out, overwrite=overwrite)
    limits = Limits(concurrency, llm_answer_tokens, Budget(budget_calls, budget_tokens))
    writer, place = writer_of(llm, llm_model, limits, seed=seed, glossary=glossary), pick_device(device, "--device")
    read, terms = read_all_sections(sections), read_glossary(glossary) if glossary else {}
    if writer is None:
        questions = ask_on(address, read, terms, seed=seed, language=language_code(language), parts=parts_of(out))
    else:
        questions = ask_writer(writer, read, out, per_section=per_section)
    encoder = load(model)
    with view(quiet=False) as shown:
        made = keep_good(questions, read, encoder, per_section=per_section, judge=judge, device=place, view=shown)
    write_made(made, read, out)


if __name__ == "__main__":
    console.run(main)
