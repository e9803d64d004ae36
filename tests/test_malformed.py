"""Files that nobody would write on purpose: refused with exit code 2 and a message, whatever is in them."""

import contextlib
import json

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nic_ray.config_file import load_config
from nic_ray.dataset.form import Form
from nic_ray.dataset.pairs import index_pairs, read_file, read_pairs, row_of
from nic_ray.dataset.split import split_rows
from nic_ray.errors import InputError

ROW = {"query": "why is the pump hot?", "positive": "Replace the bearing.", "domain": "pumps"}
EXAMPLES = settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])

odd = st.sampled_from(["\ud800", "a\udfff", 10**400, -(10**400), "1e999"])
scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | odd
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner))
# rows that are nearly right find more than rows that are nothing at all
rows = st.fixed_dictionaries(
    {},
    optional={name: scalars | st.just(value) for name, value in ROW.items()}
    | dict.fromkeys(("negative", "more", "score", "document", "source_section"), values),
)
lines = st.one_of(
    st.binary(max_size=40),
    rows.map(lambda row: json.dumps(row).encode()),
    values.map(lambda value: json.dumps(value).encode()),
    st.just(json.dumps(ROW).encode()),
)
files = st.lists(lines, max_size=6).map(b"\n".join)

sections = ["data", "train", "space", "search", "resources", "activations", "confirm", "guard", "refit", "storage"]
names = st.sampled_from(
    [*"pairs seed epochs batch_size learning_rate frozen_layers scale trials objective retention_set choice".split()]
) | st.text(max_size=8)
settings_of_any_kind = st.dictionaries(
    st.sampled_from(sections) | st.text(max_size=8), values | st.dictionaries(names, values, max_size=3), max_size=3
).map(lambda value: yaml.safe_dump(value).encode())
configs = st.binary(max_size=60) | settings_of_any_kind


@EXAMPLES
@given(content=files)
def test_pairs_are_read_or_refused(tmp_path, content):
    path = tmp_path / "pairs.jsonl"
    path.write_bytes(content)
    with contextlib.suppress(InputError):
        collection = index_pairs(read_pairs(path))
        split_rows(collection.query, collection.positive, collection.domains, seed=1)


relevant = st.dictionaries(st.sampled_from(["a", "b"]), values | st.lists(st.sampled_from(["a", "b"])))
of_llama_index = st.fixed_dictionaries(
    {name: values | st.dictionaries(st.sampled_from(["a", "b"]), values) for name in ("queries", "corpus")}
    | {"relevant_docs": relevant | values}
)


@EXAMPLES
@given(content=values | st.lists(rows | st.just(ROW), max_size=4) | of_llama_index)
def test_json_is_read_or_refused_and_its_texts_can_be_written(tmp_path, content):
    path = tmp_path / "pairs.json"
    path.write_text(json.dumps(content))
    for pair in read_file(path).pairs:
        json.dumps(row_of(pair), ensure_ascii=False).encode()


of_datasets = st.fixed_dictionaries(
    {}, optional={"splits": values, "_data_files": values | st.lists(st.dictionaries(st.just("filename"), values))}
)


@EXAMPLES
@given(content=values | of_datasets, name=st.sampled_from(["dataset_dict.json", "state.json"]), own=st.booleans())
def test_a_folder_of_datasets_is_read_or_refused(tmp_path, content, name, own):
    for other in ("dataset_dict.json", "state.json"):
        (tmp_path / other).unlink(missing_ok=True)
    (tmp_path / name).write_text(json.dumps(content))
    assert read_file(tmp_path, Form(own_splits=own)).problems


@EXAMPLES
@given(content=configs)
def test_settings_are_read_or_refused(tmp_path, content):
    path = tmp_path / "config.yaml"
    path.write_bytes(content)
    with contextlib.suppress(InputError):
        load_config(path)


@pytest.mark.parametrize("text", ["30x", "m", "-5m", "1h30m", "0m"])
def test_durations_that_are_none_are_refused(tmp_path, text):
    (tmp_path / "config.yaml").write_text(f"search: {{time_budget: '{text}'}}")
    with pytest.raises(InputError, match=r"search\.time_budget: "):
        load_config(tmp_path / "config.yaml")


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("30m", 1800), ("1.5h", 5400), ("2d", 172800), ("45", 45)])
def test_durations_are_seconds(tmp_path, text, seconds):
    (tmp_path / "config.yaml").write_text(f"search: {{time_budget: {text}}}")
    assert load_config(tmp_path / "config.yaml").search.time_budget == seconds
