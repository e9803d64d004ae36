"""Questions of the reference manuals: what is made, what the filters refuse, and the commands that write files."""

import itertools
import json
import os
import random
import re
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

from nic_ray.dataset.broken import why_broken
from nic_ray.dataset.lint import lint_pairs
from nic_ray.dataset.pairs import read_pairs
from nic_ray.dataset.rules import RULES
from nic_ray.errors import InputError, RunError
from nic_ray.manuals.sections import Section, read_sections, write_sections
from nic_ray.metrics.bm25 import bm25
from nic_ray.model.base import load
from nic_ray.progress import View
from nic_ray.questions import filters
from nic_ray.questions.filters import chosen, refuse_faulty, rows_of
from nic_ray.questions.glossary import read_glossary
from nic_ray.questions.judge import refuse_misjudged
from nic_ray.questions.keywords import best_terms, count_terms, terms_of
from nic_ray.questions.making import (
    Made,
    as_lines,
    filters_table,
    keep_good,
    kinds_table,
    read_all_sections,
    write_made,
)
from nic_ray.questions.question import SHARES, Question
from nic_ray.questions.round_trip import FIRST, is_among_first, refuse_lost
from nic_ray.questions.rules import ask_by_rules
from nic_ray.questions.terminology import propose_terms

DATA = Path(__file__).parent.parent / "data" / "reference"
MANUALS = sorted(DATA.glob("*.manual.jsonl"))


@pytest.fixture(scope="module")
def sections() -> list[Section]:
    return read_all_sections(MANUALS)


@pytest.fixture(scope="module")
def questions(sections) -> list[Question]:
    return ask_by_rules(sections, read_glossary(DATA / "glossary.json"), seed=42)


@pytest.fixture(scope="module")
def made(sections, questions, tiny_model):
    return keep_good(
        questions, sections, load(str(tiny_model())), per_section=10, judge=None, device="cpu", view=View()
    )


def plain_sections(*titles_and_texts: tuple[str, str], domain: str = "d") -> list[Section]:
    return [Section(domain, "", "", title, text, None, "") for title, text in titles_and_texts]


def test_check_finds_no_harmful_row_in_questions_of_the_reference_manuals(made, tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_text(as_lines(made.rows), encoding="utf-8")
    found = {finding.code for finding in lint_pairs(read_pairs(path), {}, 256)}
    assert not {code for code in found if RULES[code].left_out}, found
    assert found <= {"near-duplicate-passage", "several-passages"}


def test_every_section_has_questions_of_the_kinds_of_the_reference_set(made, sections):
    assert made.without == []
    kinds = Counter(each.kind for each in made.questions)
    assert set(kinds) == set(SHARES)
    for kind, share in SHARES.items():
        assert kinds[kind] / len(made.questions) == pytest.approx(share, abs=0.1)
    assert max(Counter(each.section for each in made.questions).values()) <= 10
    assert len(made.rows) >= 8 * len(sections)


def test_rows_say_what_they_are_and_name_passages_of_their_section(made, sections):
    passages = {section.passage for section in sections}
    for row in made.rows:
        assert row["synthetic"] is True
        texts = row["positive"] if isinstance(row["positive"], list) else [row["positive"]]
        assert all(text in passages for text in texts) or row["cut_from"] in passages
        assert 2 <= len(row["query"].split()) <= 20


def test_what_is_refused_and_what_is_kept_add_up(made, questions):
    assert sum(made.made.values()) == len(questions)
    assert len(made.questions) + sum(made.refused.values()) == len(questions)
    columns, rows = kinds_table(made)
    assert rows[-1][1:3] == [f"{len(questions):,}", f"{len(made.questions):,}"]
    assert sum(int(cells[1].replace(",", "")) for cells in filters_table(made)[1]) == sum(made.refused.values())
    assert len(columns) == len(rows[0])


def test_no_file_is_written_where_no_question_is_kept(tmp_path, sections):
    nothing = Made([], [], Counter({"direct": 3}), Counter(), [*range(len(sections))])
    with pytest.raises(RunError, match="is not written, since no question was left about"):
        write_made(nothing, sections, tmp_path / "pairs.jsonl")
    assert not [*tmp_path.iterdir()]


def test_the_sentence_that_a_cloze_was_made_from_is_not_in_its_passage(made, sections):
    cut = [each for each in made.questions if each.text is not None]
    assert cut
    for each in cut:
        whole = sections[each.section].text
        assert whole.endswith(each.text)
        removed = whole.removesuffix(each.text).lower()
        asked = each.query.lower().rstrip("?").replace(",", "").split()
        runs = [" ".join(asked[start : start + 2]) for start in range(len(asked) - 1)]
        assert any(run in removed.replace(",", "") for run in runs) or each.kind in ("shop", "typo")


def test_the_same_seed_gives_the_same_bytes_in_every_process(tmp_path):
    code = (
        "import sys; from pathlib import Path; from nic_ray.questions.glossary import read_glossary\n"
        "from nic_ray.questions.filters import chosen, refuse_faulty, rows_of\n"
        "from nic_ray.questions.making import as_lines, read_all_sections\n"
        "from nic_ray.questions.rules import ask_by_rules\n"
        "sections = read_all_sections([Path(sys.argv[1])])\n"
        "found = ask_by_rules(sections, read_glossary(Path(sys.argv[2])), seed=int(sys.argv[3]))\n"
        "print(as_lines(rows_of(chosen(refuse_faulty(found, sections).questions, 10).questions, sections)))\n"
    )

    def output(hash_seed: str, seed: int) -> bytes:
        command = [sys.executable, "-c", code, str(DATA / "hvac.manual.jsonl"), str(DATA / "glossary.json"), str(seed)]
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        return subprocess.run(command, env=environment, capture_output=True, check=True).stdout

    first = output("1", 42)
    assert output("2", 42) == first
    assert output("1", 7) != first


def test_a_further_section_changes_little_in_the_questions_of_others(sections, questions):
    more = [*sections, *plain_sections(("Proofing the dough", "Leave the dough to rise for an hour."), domain="baking")]
    again = ask_by_rules(more, read_glossary(DATA / "glossary.json"), seed=42)
    before = {(each.section, each.query) for each in questions}
    after = {(each.section, each.query) for each in again if each.section < len(sections)}
    assert len(before & after) >= 0.9 * len(before)


def test_shop_questions_hold_the_glossarys_words(made, sections):
    glossary = read_glossary(DATA / "glossary.json")
    words = {domain: [shop.lower() for term in terms for shop in term.shop] for domain, terms in glossary.items()}
    shop = [each for each in made.questions if each.kind == "shop"]
    with_words = [
        each for each in shop if any(word in each.query.lower() for word in words[sections[each.section].domain])
    ]
    assert len(with_words) >= 0.7 * len(shop)


def test_other_languages_get_titles_keywords_and_typos_only():
    german = plain_sections(
        (
            "Wechsel des Ölfilters",
            "Den Ölfilter abschrauben und den Dichtring leicht einölen. Ölfilter handfest anziehen.",
        ),
        ("Spannen des Keilriemens", "Den Keilriemen mit dem Daumen prüfen. Der Keilriemen darf 10 mm nachgeben."),
    )
    found = ask_by_rules(german, {}, seed=1, language="de")
    assert {each.kind for each in found} == {"direct", "keyword", "typo"}
    assert {each.query for each in found if each.kind == "direct"} == {section.section for section in german}


def test_keywords_stand_in_their_section_and_are_rarer_elsewhere(sections):
    counted = count_terms(sections)
    for section in sections[::40]:
        best = best_terms(section, counted, english=True)[:3]
        assert set(best) <= set(terms_of(section.passage))
        assert all(counted.holding[term] <= len(sections) / 10 for term in best)
    assert counted.rarity("no such term") == counted.rarity(min(counted.holding, key=counted.holding.__getitem__))


def test_the_shares_of_kinds_are_rounded_to_the_whole_number():
    for number in (1, 3, 7, 10, 25):
        pool = [Question(f"{kind} {n}", kind, 0) for kind in SHARES for n in range(40)]
        kept = chosen(pool, number)
        assert len(kept.questions) == number
        assert kept.refused[filters.MORE] == len(pool) - number
    assert Counter(each.kind for each in chosen(pool, 10).questions) == {
        "direct": 2, "symptom": 2, "shop": 4, "keyword": 1, "typo": 1
    }  # fmt: skip


def test_where_a_kind_is_missing_others_fill_up_to_twice_their_share():
    pool = [Question(f"direct {n}", "direct", 0) for n in range(40)]
    assert len(chosen(pool, 10).questions) == 4


def test_faulty_questions_are_refused_each_by_its_filter():
    sections = plain_sections(
        ("Notes", "The green lamp of the pump goes out when the tank is empty and the motor stops at once."),
        ("Oil change", "Drain the oil."),
        ("Oil change", "Drain the old oil while it is warm."),
        ("PSU", "Power Supply Units"),
    )
    copied = "the green lamp of the pump goes out when the tank is empty"
    found = refuse_faulty(
        [
            Question("How do I do it?", "direct", 0),
            Question("oil change", "keyword", 1),
            Question(copied, "direct", 0),
            Question("psu power supply units", "keyword", 3),
            Question("why is the lamp out?", "direct", 0),
            Question("Why is the lamp out", "direct", 0),
        ],
        sections,
    )
    assert [each.query for each in found.questions] == ["why is the lamp out?"]
    assert found.refused == {filters.BROKEN: 1, filters.TITLE: 1, filters.COPY: 2, filters.NEAR: 1}
    assert why_broken("How do I do it?")


def test_a_question_of_several_sections_becomes_one_row_with_all_their_passages():
    sections = plain_sections(*((f"Pump {n}", f"Pump number {n} stops at {n} bar.") for n in range(5)))
    shared = [Question("when does the pump stop?", "direct", n) for n in (0, 1)]
    found = refuse_faulty([*shared, Question("When does the pump stop", "direct", 2)], sections)
    (row,) = rows_of(found.questions, sections)
    assert row["positive"] == [section.passage for section in sections[:3]]
    assert refuse_faulty([replace(shared[0], section=n) for n in range(4)], sections).refused == {filters.VAGUE: 4}


def test_a_question_asked_in_several_domains_is_refused():
    sections = [*plain_sections(("Fuses", "Fuse 3 is 5 A.")), *plain_sections(("Fuses", "Fuse 3 is 9 A."), domain="e")]
    found = refuse_faulty([Question("what current for fuse F3?", "direct", n) for n in (0, 1)], sections)
    assert found.questions == []
    assert found.refused == {filters.VAGUE: 2}


def test_the_round_trip_keeps_what_words_or_the_model_lead_back(sections, tiny_model):
    encoder = load(str(tiny_model()))
    by_words = bm25([section.passage for section in sections])
    rng = random.Random(0)
    asked = [
        Question(" ".join(rng.sample(section.text.split(), 4)), "keyword", n) for n, section in enumerate(sections)
    ]
    asked += [Question("sourdough starter smells of acetone", "direct", n) for n in range(0, 400, 20)]
    kept = refuse_lost(asked, sections, encoder, max_tokens=64)
    assert len(kept.questions) + kept.refused[filters.ROUND_TRIP] == len(asked)
    scores = by_words([each.query for each in asked])
    for each, row in zip(asked, scores, strict=True):
        if row[each.section] > 0 and (row >= row[each.section]).sum() <= FIRST:
            assert each in kept.questions
    # a model of random weights leads back to few of those that share no word
    assert sum(each.query.startswith("sourdough") for each in kept.questions) <= 3


def test_ties_count_against_a_question():
    own = np.zeros(1, dtype=np.int64)
    assert is_among_first(np.ones((1, FIRST)), own).tolist() == [True]
    assert is_among_first(np.ones((1, FIRST + 1)), own).tolist() == [False]


def test_the_model_alone_is_enough_to_lead_back(tiny_model, tiny_pairs):
    passages = list(dict.fromkeys(pair.positive for pair in tiny_pairs))
    sections = plain_sections(*((text.split()[0], text) for text in passages))
    same = [Question(section.passage.replace("e", "é"), "direct", n) for n, section in enumerate(sections)]
    kept = refuse_lost(same, sections, load(str(tiny_model())), max_tokens=64)
    assert kept.questions  # no word is shared with the accents, but letters are


@pytest.fixture(scope="module")
def judge(tiny_model, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("judge")
    words = AutoTokenizer.from_pretrained(tiny_model("bert"))
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 64}
    config = BertConfig(
        vocab_size=len(words), pad_token_id=1, num_labels=1, initializer_range=0.3, max_position_embeddings=64, **sizes
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        BertForSequenceClassification(config).save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


def test_the_judge_keeps_what_it_scores_highest_with_its_own_section(judge, tiny_pairs):
    from sentence_transformers import CrossEncoder

    passages = list(dict.fromkeys(pair.positive for pair in tiny_pairs))
    sections = plain_sections(*((text.split()[0], text) for text in passages[:6]))
    asked = [
        Question(pair.query, "direct", passages.index(pair.positive))
        for pair in tiny_pairs
        if pair.positive in passages[:6]
    ]
    kept = refuse_misjudged(asked, sections, judge)
    assert kept.refused[filters.JUDGE] == len(asked) - len(kept.questions)
    model = CrossEncoder(str(judge), device="cpu")
    for each in asked:
        scores = model.predict([(each.query, section.passage) for section in sections], show_progress_bar=False)
        others = [score for n, score in enumerate(scores) if n != each.section]
        assert (each in kept.questions) == bool(scores[each.section] > max(others))


@pytest.mark.parametrize("content", [None, "{}"])
def test_a_judge_that_is_none_is_refused(tmp_path, content):
    if content:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(InputError, match="--judge"):
        refuse_misjudged([], plain_sections(("A", "b")), tmp_path)


def test_the_command_writes_pairs_and_says_what_it_refused(run_main, tiny_model, tmp_path):
    from nic_ray.ask import main

    few, out = tmp_path / "sections.jsonl", tmp_path / "pairs.jsonl"
    write_sections(read_sections(DATA / "forklift.manual.jsonl")[:20], few)
    options = ["--model", tiny_model(), "--device", "cpu", "--glossary", DATA / "glossary.json"]
    code, printed, _ = run_main(main, few, "--out", out, "--per-section", 5, *options)
    assert code == 0
    rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert f"{len(rows)} rows about 20 of 20 sections" in printed
    assert len(rows) <= 100
    for word in ("direct", "symptom", "shop", "keyword", "typo", "beyond its kind's share", str(out)):
        assert word in printed
    code, _, error = run_main(main, few, "--out", out, *options)
    assert code == 2
    assert "exists already" in error


@pytest.mark.parametrize(
    ("content", "message"),
    [("", "holds no sections"), ('{"domain": "d"}\n', '"section" is missing'), ("nonsense\n", "line 1")],
)
def test_a_file_that_holds_no_sections_is_refused(run_main, tmp_path, content, message):
    from nic_ray.ask import main

    path = tmp_path / "sections.jsonl"
    path.write_text(content)
    code, _, error = run_main(main, path, "--out", tmp_path / "pairs.jsonl")
    assert code == 2
    assert message in error.replace("\n", " ")
    assert not (tmp_path / "pairs.jsonl").exists()


def test_where_no_question_is_left_nothing_is_written_and_it_is_said(run_main, tiny_model, tmp_path):
    from nic_ray.ask import main

    write_sections(plain_sections(("---", "!!! ???"), ("12", "3 4 5")), tmp_path / "sections.jsonl")
    out, model = tmp_path / "pairs.jsonl", ["--model", tiny_model(), "--device", "cpu"]
    code, printed, error = run_main(main, tmp_path / "sections.jsonl", "--out", out, *model)
    assert code == 1
    assert "refused" not in printed
    assert "no question was left about 2 sections" in error
    assert not list(tmp_path.glob("pairs*"))
    code, _, error = run_main(main, tmp_path / "sections.jsonl", "--out", out, "--language", "Chinese", *model)
    assert (code, "--language: must be a code of ISO 639" in error) == (2, True)


def test_an_out_in_no_folder_and_a_bad_glossary_are_refused_before_any_work(run_main, tmp_path):
    from nic_ray.ask import main

    code, _, error = run_main(main, MANUALS[0], "--out", tmp_path / "none" / "pairs.jsonl")
    assert (code, "is no folder" in error) == (2, True)
    (tmp_path / "glossary.json").write_text("[]")
    code, _, error = run_main(main, MANUALS[0], "--out", tmp_path / "o.jsonl", "--glossary", tmp_path / "glossary.json")
    assert (code, "must be a JSON object" in error) == (2, True)


def test_the_terms_of_the_reference_glossary_are_proposed(sections):
    from nic_ray.dataset.general import general_texts

    proposed = propose_terms(sections, general_texts(None), top=100)
    glossary = read_glossary(DATA / "glossary.json")
    wanted = [(domain, term.term.lower()) for domain, terms in glossary.items() for term in terms]
    found = {(domain, each.term.lower()) for domain, terms in proposed.items() for each in terms}
    assert sum(each in found for each in wanted) >= 0.85 * len(wanted)
    assert all(len(terms) <= 100 for terms in proposed.values())
    assert all(one.score >= other.score for terms in proposed.values() for one, other in itertools.pairwise(terms))


def test_words_of_general_text_are_no_terms():
    ours = plain_sections(
        *((f"Part {n}", "The grommet value of the winch. Fit the grommet to the value.") for n in range(4))
    )
    general = ["The value of an object is a value that has no value outside."] * 200
    terms = [each.term for each in propose_terms(ours, general, top=10)["d"]]
    assert "grommet" in terms
    assert "value" not in terms


def test_the_command_keeps_a_glossarys_filled_entries(run_main, tmp_path):
    from nic_ray.terms import main

    filled = {"hvac": [{"term": "compressor", "shop": ["thumper"]}, {"term": "gone", "shop": []}], "other": []}
    (tmp_path / "old.json").write_text(json.dumps(filled))
    out = tmp_path / "new.json"
    code, printed, _ = run_main(
        main, DATA / "hvac.manual.jsonl", "--out", out, "--glossary", tmp_path / "old.json", "--top", 20
    )
    assert code == 0
    assert "1 of them with shop words" in printed
    terms = json.loads(out.read_text())["hvac"]
    assert terms[0] == {"term": "compressor", "shop": ["thumper"]}
    assert all(each["shop"] == [] for each in terms[1:])
    assert "gone" not in [each["term"] for each in terms]
    assert 15 <= len(terms) <= 21
    assert re.search(r"and \d+ more", printed)
    assert read_glossary(out)["hvac"][0].shop == ("thumper",)
