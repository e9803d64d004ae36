"""The model card of an exported folder: Hugging Face's YAML header with the results of the test part, and the text."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from huggingface_hub import EvalResult, ModelCardData
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from nic_ray.bundle.card_evidence import evidence_section
from nic_ray.bundle.descriptions import describe_ranked
from nic_ray.bundle.markdown import gap, table
from nic_ray.bundle.names import PICTURE
from nic_ray.bundle.picture import cut_off, described_training, domains_of, with_epochs
from nic_ray.bundle.question_kinds import caution_of, describe_trained
from nic_ray.domains import MAX_SHOWN, changes_of, names_of, shown_domains
from nic_ray.evidence import Metadata
from nic_ray.metrics.table import METRICS, OVER_ALL, PRIMARY, metric_of, metrics_in
from nic_ray.protocol import BY_PASSAGE, MEANINGS, describe_groups, held_back_by
from nic_ray.readings import COLUMNS, cells_of, describe_readings
from nic_ray.results import CROSS_FIT, IN_DOMAIN
from nic_ray.tokens import PACKAGED_NAMES

HEADINGS = {
    "test": ("Test part", "which took no part in choosing"),
    IN_DOMAIN: ("Test part within domains", "each query ranked against the passages that rows of its own domain name"),
    CROSS_FIT: ("All rows", "each answered by a model that was trained without its passage"),
    "unseen_queries": (
        "Unseen queries",
        "the easier protocol: new questions about trained passages",
    ),
    "validation": ("Validation part", "which picked the weights"),
}


def model_card(metadata: Metadata) -> str:
    """Compose README.md of a bundle: Hugging Face's YAML header with the results of the test part, and the text.

    Args:
        metadata: as for `write_bundle`. Keys that it lacks are left out of the card; "name" and "base_model" are
            required.
    """
    sections = [
        _introduction(metadata),
        _use_section(metadata),
        _results_section(metadata),
        evidence_section(metadata),
        _readings_section(metadata),
        _training_section(metadata),
        _data_section(metadata),
        _limits_section(metadata),
    ]
    text = "\n\n".join(section for section in sections if section)
    return f"---\n{_card_data(metadata).to_yaml()}\n---\n\n{text}\n"


def _card_data(metadata: Metadata) -> ModelCardData:
    return ModelCardData(
        model_name=metadata["name"],
        base_model=_hub_id(metadata["base_model"]),
        library_name="sentence-transformers",
        pipeline_tag="sentence-similarity",
        tags=["sentence-transformers", "sentence-similarity", "feature-extraction"],
        eval_results=list(_eval_results(metadata)) or None,
    )


def _hub_id(base_model: str) -> str | None:
    """The base model's name on the hub; None for a folder, whose path means nothing on another machine."""
    if base_model in PACKAGED_NAMES:
        return PACKAGED_NAMES[-1]
    try:
        validate_repo_id(base_model)
    except HFValidationError:
        return None
    return None if Path(base_model).exists() else base_model


def _eval_results(metadata: Metadata) -> Iterator[EvalResult]:
    data = metadata.get("data", {})
    pairs = data.get("pairs", "pairs")
    results = metadata.get("results", {})
    part = CROSS_FIT if CROSS_FIT in results else "test"  # of all rows where every passage was held out once
    tested = results.get(part, {}).get("tuned", {})
    many = len(changes_of({"tuned": tested})) > MAX_SHOWN
    for key, value in tested.items():
        metric, _, domain = key.partition("/")
        if domain and (domain == "macro" or (domain not in OVER_ALL and not many)):
            yield EvalResult(
                task_type="information-retrieval",
                dataset_type=Path(pairs).stem,
                dataset_name=f"{pairs}, {'mean over domains' if domain == 'macro' else domain}",
                dataset_config=domain,
                dataset_split=part,
                dataset_revision=data.get("sha256"),
                metric_type=metric,
                metric_name=metric_of(metric).label,
                metric_value=value,
            )


def _introduction(metadata: Metadata) -> str:
    domains = metadata.get("data", {}).get("domains", {})
    about = f" about {names_of(domains)}" if domains else ""
    said = caution_of(metadata.get("data", {}), metadata.get("split", {}))
    first = f"**{said}**\n\n" if said else ""
    return (
        f"# {metadata['name']}\n\n{first}"
        "A sentence-embedding model that finds the passage of a technical manual which answers a question"
        f"{about}. It is {metadata['base_model']}, tuned on pairs of a query and its passage."
    )


def _use_section(metadata: Metadata) -> str:
    saved_with = metadata.get("versions", {}).get("sentence-transformers")
    saved = f"\n\nThe folder was saved with sentence-transformers {saved_with}." if saved_with else ""
    place = json.dumps(metadata["name"], ensure_ascii=False)
    return (
        "## Use\n\n"
        "```python\n"
        "from sentence_transformers import SentenceTransformer\n\n"
        f"model = SentenceTransformer({place})  # the path of this folder\n"
        "passages = [...]  # sections of the manuals\n"
        'query = model.encode_query(["Why does it not start?"])\n'
        "scores = model.similarity(query, model.encode_document(passages))\n"
        "best = passages[int(scores.argmax())]\n"
        "```" + _prompts_note(metadata) + saved
    )


def _prompts_note(metadata: Metadata) -> str:
    prompts = {kind: prompt for kind, prompt in metadata.get("prompts", {}).items() if prompt}
    if not prompts:
        return ""
    put = [f"{json.dumps(prompt, ensure_ascii=False)} in front of a {kind}" for kind, prompt in prompts.items()]
    return (
        f"\n\n`encode_query` and `encode_document` put {' and '.join(put)}, as the base model wants it. The figures "
        "below are of texts with these prompts; plain `encode` does not know a query from a passage."
    )


def _results_section(metadata: Metadata) -> str:
    results = metadata.get("results", {})
    parts = [part for part in HEADINGS if results.get(part)]
    if not parts:
        return ""
    split, data = metadata.get("split", {}), metadata.get("data", {})
    metrics = metrics_in(*(flat for part in parts for flat in results[part].values()))
    lines = [
        "## Results",
        f"Each query is ranked against {describe_ranked(data)}. "
        f"{' '.join(f'{metric.label} is the {metric.explained}.' for metric in metrics.values())} A tie counts against "
        "the model. `macro` is the mean over domains, each with the same weight, and `worst` the lowest domain.",
    ]
    trained = metadata.get("trained", {})
    if described := described_training(trained):
        lines.append(f"How long they were trained: {described}.")
    if warning := cut_off(trained):
        lines.append(f"**{warning}**")
    if protocol := held_back_by(split.get("protocol"), split.get("splits")):
        grouped = describe_groups(split.get("group_by", BY_PASSAGE), split.get("splits"))
        lines.append(f"How rows were held back: {MEANINGS.get(protocol, protocol)}.{grouped and f' {grouped}.'}")
    for part in parts:
        query_count = split.get("rows", {}).get("test" if part == IN_DOMAIN else part)
        counted = "" if query_count is None else f" ({query_count} queries)"
        name, note = HEADINGS[part]
        models = {with_epochs(model, model, trained): flat for model, flat in results[part].items()}
        passages = metadata.get("passages", {}).get("test" if part == IN_DOMAIN else part, {})
        lines += [f"### {name}{counted}, {note}", _metrics_table(models, passages)]
        if part == "test" and pictured(metadata):
            lines.append(
                f"![{METRICS[PRIMARY].label} of the test part in each domain, base model and winner]({PICTURE})"
            )
    return "\n\n".join(lines)


def pictured(metadata: Metadata) -> Mapping[str, Mapping[str, float]]:
    """The results that the card's picture shows; empty if the card has no picture."""
    tested: Mapping[str, Mapping[str, float]] = metadata.get("results", {}).get("test", {})
    domains = domains_of(tested)
    whole = all(f"{PRIMARY}/{domain}" in flat for flat in tested.values() for domain in domains)
    return tested if domains and whole else {}


def _metrics_table(results: Mapping[str, Mapping[str, float]], passages: Mapping[str, int]) -> str:
    names = dict.fromkeys(key.partition("/")[2] for flat in results.values() for key in flat if "/" in key)
    last = [name for name in ("worst", "macro") if name in names]
    counted = ["passages"] if passages else []
    metrics = metrics_in(*results.values())
    header = ["domain", *counted, *(f"{metric.label} {model}" for metric in metrics.values() for model in results)]
    changes = changes_of(results)
    changes = {name: changes.get(name, 0.0) for name in names if name not in OVER_ALL}
    rows = []
    for name in (*shown_domains(changes), *last):
        if name is None:
            rows.append(gap(changes, header))
            continue
        values = [flat.get(f"{metric}/{name}") for metric in metrics for flat in results.values()]
        count = [str(passages.get(name, ""))] if counted else []
        rows.append([name, *count, *("–" if value is None else f"{value:.3f}" for value in values)])
    return table(header, rows)


def _readings_section(metadata: Metadata) -> str:
    readings = metadata.get("readings")
    if not readings:
        return ""
    note = describe_readings(readings) or (
        "The test rows were read once, after everything was chosen, according to the run that made the model "
        "and those beside it; later readings are recorded only in the run folder"
    )
    return f"## Readings of the test part\n\n{note[0].upper()}{note[1:]}.\n\n{table(COLUMNS, cells_of(readings))}"


def _training_section(metadata: Metadata) -> str:
    facts = {
        "trial": metadata.get("trial"),
        "weights": "mean of these trials', each above the shallowest cut" if metadata.get("averaged") else None,
        "chosen by": metadata.get("objective"),
        "created": metadata.get("created"),
        "best epoch": metadata.get("best", {}).get("epoch"),
        "best step": metadata.get("best", {}).get("step"),
        "precision": metadata.get("precision"),
        "weights of the base model, SHA-256": metadata.get("base_weights_sha256"),
        "commit of the base model": metadata.get("base_revision"),
        "weights of the base model, stored in": metadata.get("base_stored_in"),
        "weights, stored in": metadata.get("stored_in"),
        "similarity of the base model, as it was scored": metadata.get("base_similarity"),
    }
    rows = [[key, _shown(value)] for key, value in facts.items() if value is not None]
    rows += [[f"`{key}`", _shown(value)] for key, value in metadata.get("config", {}).items()]
    rows += [[f"{name} version", value] for name, value in metadata.get("versions", {}).items()]
    return "## Training\n\n" + table(["setting", "value"], rows) if rows else ""


def _data_section(metadata: Metadata) -> str:
    data, split = metadata.get("data", {}), metadata.get("split", {})
    facts = {
        "file": data.get("pairs"),
        "SHA-256": data.get("sha256"),
        "rows": data.get("rows"),
        "passages": data.get("passages"),
        **_rows_of_domains(data.get("domains", {})),
        **{f"{part} rows": count for part, count in split.get("rows", {}).items()},
        **{f"split, {key.replace('_', ' ')}": value for key, value in split.items() if key != "rows"},
    }
    rows = [[key, _shown(value)] for key, value in facts.items() if value is not None]
    trained = describe_trained(data, split)
    after = f"\n\n{trained}" if trained else ""
    return "## Data\n\n" + table(["what", "value"], rows) + after if rows else ""


def _rows_of_domains(domains: Mapping[str, int]) -> dict[str, int]:
    if len(domains) > MAX_SHOWN:
        return {"domains": len(domains)}
    return {f"rows of {domain}": count for domain, count in domains.items()}


def _limits_section(metadata: Metadata) -> str:
    domains = metadata.get("data", {}).get("domains", {})
    judged = f"in these domains: {names_of(domains)}" if domains else "on the data above"
    limits = [
        f"It was judged {judged}. Tuning forgets: elsewhere it may find less than the base model does"
        + (", by about as much as the retention above." if metadata.get("retention") else "."),
        "The validation part picked the weights, so its figures flatter; quote those of the test part.",
    ]
    if "max_tokens" in metadata.get("config", {}):
        cut = metadata["config"]["max_tokens"]
        included = ", its prompt included" if any(metadata.get("prompts", {}).values()) else ""
        limits.append(f"Of a text at most {cut} tokens are read{included}, fewer if the base model takes fewer.")
    if metadata.get("config", {}).get("trains") == "queries":
        limits.append(
            "Its queries alone were trained: passages have the embeddings of the base model, so an index of them stays "
            "valid. Embed queries with `encode_query` and passages with `encode_document`; `encode` embeds as passages "
            "are."
        )
    if metadata.get("split", {}).get("protocol") == "unseen_queries":
        limits.append("Its figures say nothing about passages that it was not trained on.")
    return "## Limits\n\n" + "\n".join(f"- {limit}" for limit in limits)


def _shown(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)
