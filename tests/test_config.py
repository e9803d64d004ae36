"""The shipped configurations, and how a configuration that is wrong is refused."""

import re
from pathlib import Path

import pytest
import yaml

from nic_ray.config import Config, ConstraintConfig, trial_config
from nic_ray.config_file import dump_config, load_config
from nic_ray.errors import InputError
from nic_ray.space import Dimension
from nic_ray.train_config import TrainConfig

SHIPPED = sorted((Path(__file__).parent.parent / "tune_configs").glob("*.yaml"))


@pytest.fixture
def refusal(tmp_path):
    """`refusal(text)`: the lines of the message that refuses a file of this text, without its path."""

    def refuse(text: str, overrides: dict | None = None) -> list[str]:
        path = tmp_path / "wrong.yaml"
        path.write_text(text, encoding="utf-8")
        with pytest.raises(InputError, match=re.escape(f"{path}: ")) as caught:
            load_config(path, overrides)
        return [line.strip() for line in str(caught.value).removeprefix(f"{path}: ").split("\n")]

    return refuse


@pytest.fixture
def accepted(tmp_path):
    def accept(text: str, overrides: dict | None = None) -> Config:
        path = tmp_path / "config.yaml"
        path.write_text(text, encoding="utf-8")
        return load_config(path, overrides)

    return accept


def shipped(name: str) -> Config:
    return load_config(next(path for path in SHIPPED if path.name == name))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_every_shipped_file_is_sound_and_opens_with_its_command(path):
    load_config(path)
    opening = re.match(r"(#.*\n)+", path.read_text(encoding="utf-8"))[0]
    assert re.search(rf"^# +python -m nic_ray\.tune tune_configs/{path.name}\b", opening, re.MULTILINE)
    assert len(opening.splitlines()[0]) > 40  # what it is for


def test_the_smoke_search_is_two_trials():
    config = shipped("smoke.yaml")
    assert (config.search.trials, config.train.epochs) == (2, 1)
    assert config.data.sample_share < 1


def test_the_cpu_search_is_twelve_trials_of_three_epochs():
    config = shipped("cpu.yaml")
    search, train = config.search, config.train
    assert (search.trials, train.epochs, train.evaluations_per_epoch) == (12, 3, 2)
    assert (search.grace_period, search.reduction_factor, search.startup_trials) == (1, 3, 4)
    assert config.space["frozen_layers"].choice == (3, 4, 5)
    assert config.resources.gpus_per_worker == 0


def test_the_gpu_search_is_forty_trials_of_five_epochs_at_every_depth():
    config = shipped("gpu.yaml")
    assert (config.search.trials, config.train.epochs) == (40, 5)
    assert config.space["frozen_layers"].choice == (0, 1, 2, 3, 4, 5)
    assert config.resources.gpus_per_worker > 0


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_a_dumped_configuration_is_read_back_equal(path, accepted):
    dumped = dump_config(load_config(path))
    assert accepted(dumped) == load_config(path)
    assert "null" not in dumped


def test_no_retention_set_survives_a_dump(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("guard: {retention_set: null}")
    path.write_text(dump_config(load_config(path)))
    assert load_config(path).guard.retention_set is None


def test_the_retention_set_is_read_under_its_former_name(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("guard: {probe: of_old.jsonl}")
    assert load_config(path).guard.retention_set == Path("of_old.jsonl")
    for place in ("", "/somewhere/packaged_files/"):  # as a shipped file said it, and as a run recorded it
        path.write_text(f"guard: {{probe: {place}data/probe/pairs.jsonl}}")
        assert load_config(path).guard.retention_set == load_config(SHIPPED[0]).guard.retention_set
    path.write_text("guard: {retention_set: of_old.jsonl}")
    assert load_config(path, {"guard.probe": "other.jsonl"}).guard.retention_set == Path("other.jsonl")


def test_null_and_text_survive_a_dump(accepted):
    config = accepted(
        "space: {patience: {choice: [null, 3]}, schedule: {choice: [linear, cosine_restarts]}}\ntrain: {patience: 3}"
    )
    assert accepted(dump_config(config)) == config


@pytest.mark.parametrize("text", ["", "# only a comment\n"])
def test_an_empty_file_means_every_default(accepted, text):
    assert accepted(text) == Config()


def test_every_setting_says_what_it_is():
    sections = [field.annotation for field in Config.model_fields.values() if hasattr(field.annotation, "model_fields")]
    assert len(sections) == 9
    for section in [*sections, ConstraintConfig, Dimension]:
        assert [name for name, field in section.model_fields.items() if not field.description] == []


def test_numbers_that_yaml_takes_for_text_become_numbers(accepted):
    assert yaml.safe_load("2e-5") == "2e-5"
    config = accepted(
        "train: {learning_rate: 2e-5}\n"
        "space: {learning_rate: {log_uniform: [1e-5, 1e-3]}, weight_decay: {choice: [1e-2, 1e-1]}}"
    )
    assert config.train.learning_rate == 2e-5
    assert config.space["learning_rate"].log_uniform == (1e-5, 1e-3)
    assert config.space["weight_decay"].choice == (0.01, 0.1)


def test_overrides_win_over_the_file_and_none_is_skipped(accepted):
    text = "search: {trials: 9, seed: 1}\ntrain:\n"
    config = accepted(text, {"search.trials": 3, "search.seed": None, "train.epochs": 7, "data.pairs": "my.jsonl"})
    assert (config.search.trials, config.search.seed, config.train.epochs) == (3, 1, 7)
    assert config.data.pairs == Path("my.jsonl")


def test_an_override_is_checked_like_a_value_of_the_file(refusal):
    assert refusal("", {"search.trials": 0}) == ["1 problem", "search.trials, given as an option: must be >= 1, got 0"]


def test_an_override_does_not_hide_that_its_section_is_none(refusal):
    assert refusal("search: 4", {"search.trials": 3}) == ["1 problem", "search: must be settings by name, got 4"]


def test_all_errors_are_listed_at_once(refusal):
    lines = refusal(
        "trian: {epochs: 1}\n"
        "data: {validation_share: 0.6, test_share: 0.4}\n"
        "train: {learning_rate: -2e-5, frozen_layer: 3, schedule: square, seed: 1.5, scale: .nan}\n"
        "space: {learning_rat: {choice: [1]}, scale: {uniform: [30, 10]}, epochs: {choice: [3]}}\n"
        "search: {objective: recall_at_5, trials: many}\n"
        "resources:\n"
    )
    assert lines == [
        "13 problems",
        "data: validation_share + test_share must be < 1, got 0.6 + 0.4: nothing is left to train on",
        "train.learning_rate: must be > 0, got '-2e-5'",
        "train.scale: must be a number, got nan",
        "train.schedule: must be one of 'cosine_restarts', 'cosine', 'linear' or 'constant', got 'square'",
        "train.seed: must be a whole number, got 1.5",
        "train.frozen_layer: no such setting; did you mean frozen_layers?",
        "space.learning_rat: no such hyperparameter; did you mean learning_rate?",
        "space.scale: the low end must be below the high end, got [30.0, 10.0]",
        "space.epochs: is the same for every trial; set it under train",
        "search.trials: must be a whole number, got 'many'",
        "search.objective: must be a metric and /macro or /worst or /micro or /fused, such as recall_at_5/macro, got "
        "recall_at_5",
        "resources: must be settings by name, got null",
        "trian: no such setting; did you mean train?",
    ]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("train: {lr: 1}", "train.lr: no such setting; known are base_model, revision, "),
        ("train: {prompts: {answer: x}}", "train.prompts.answer: no such setting; known are query, document"),
        ("train: {prompts: no}", "train.prompts: must be settings by name, got False"),
        ("search: {constraint: {parameters: 1}}", "search.constraint.parameters: no such setting; did you mean max_pa"),
        ("space: {lr: {choice: [1]}}", "space.lr: no such hyperparameter; known are base_model, "),
        ("space: {scale: {choise: [1]}}", "space.scale.choise: no such setting; did you mean choice?"),
        ("train: {epochs: 0}", "train.epochs: must be >= 1, got 0"),
        ("train: {warmup_share: 1}", "train.warmup_share: must be < 1, got 1"),
        ("search: {seed: 1764316800000}", "search.seed: must be < 2147483648, got 1764316800000"),
        ("train: {learning_rate: 2}", "train.learning_rate: must be <= 1, got 2"),
        ("train: {learning_rate: fast}", "train.learning_rate: must be a number, got 'fast'"),
        ("train: {base_model: 3}", "train.base_model: must be text, got 3"),
        ("train: {base_model: ''}", "train.base_model: must be a name, got ''"),
        ("train: [a]", "train: must be settings by name, got ['a']"),
        (
            r'train: {base_model: "a\0b"}',
            r"train.base_model: must be text without null characters and halves of characters, got 'a\x00b'",
        ),
        (
            r'data: {pairs: "a\0b.jsonl"}',
            r"data.pairs: must be text without null characters and halves of characters, got 'a\x00b.jsonl'",
        ),
        (
            r'storage: "\ud800"',
            r"storage: must be text without null characters and halves of characters, got '\ud800'",
        ),
        (
            "train: {batch_size: 5, queries_per_passage: 3}",
            "train: batch_size must hold 2 passages or more, 2 x queries_per_passage, got batch_size 5 with "
            "queries_per_passage 3",
        ),
        (
            "train: {batch_size: 4, queries_per_passage: 4}",
            "train: batch_size must hold 2 passages or more, 2 x queries_per_passage, got batch_size 4 with "
            "queries_per_passage 4",
        ),
        ("space: {scale: {}}", "space.scale: want exactly one of log_uniform, uniform, choice; got none"),
        (
            "space: {scale: {uniform: [1, 30], choice: [20]}}",
            "space.scale: want exactly one of log_uniform, uniform, choice; got uniform, choice",
        ),
        ("space: {scale: {log_uniform: [0, 30]}}", "space.scale: log_uniform needs a low end > 0, got 0.0"),
        ("space: {scale: {choice: []}}", "space.scale: choice must be a list of one value or more, got []"),
        ("space: {scale: {choice: 20}}", "space.scale.choice: must be a list of values, got 20"),
        ("space: {scale: {choice: [[20]]}}", "space.scale.choice.0: must be a number, a name or null, got [20]"),
        ("space: {scale: {choice: [20, .inf]}}", "space.scale.choice.1: must be a number, a name or null, got inf"),
        ("space: {scale: {uniform: [1, 2, 3]}}", "space.scale.uniform: must be two numbers, low and high, got "),
        ("space: {scale: {uniform: [1]}}", "space.scale.uniform.1: must be two numbers, low and high, got [1]"),
        ("space: {scale: {choice: [20, 2000]}}", "space.scale: must be <= 1000, got 2000"),
        ("space: {scale: {uniform: [10, 2000]}}", "space.scale: must be <= 1000, got 2000"),
        (
            "{space: {scale: {choice: [20, 30]}}, search: {starts: [{scale: 30}, {scale: 25}]}}",
            "search.starts[1].scale: must be a value that space.scale holds, got 25",
        ),
        (
            "{space: {scale: {choice: [20, 30]}}, search: {starts: [{scales: 30}]}}",
            "search.starts[0].scales: is no hyperparameter of the space; did you mean scale?",
        ),
        (
            "{space: {scale: {choice: [20, 30]}}, search: {starts: [{scale: 30}, {scale: 30.0}]}}",
            "search.starts[1]: must differ from the first trial and from the starts before it, by what counts with its "
            "other values, got {'scale': 30.0}; change it",
        ),
        (
            "{space: {scale: {choice: [20, 30]}}, search: {starts: [{}]}}",
            "search.starts[0]: must differ from the first trial and from the starts before it, by what counts with its "
            "other values, got {}; change it",
        ),
        ("space: {scale: {choice: [30]}}", "space.scale: must hold train.scale, the first trial's value 20"),
        ("space: {scale: {uniform: [1, 10]}}", "space.scale: must hold train.scale, the first trial's value 20"),
        ("space: {batch_size: {uniform: [32, 64]}}", "space.batch_size: does not take every number of a range; want "),
        ("space: {patience: {uniform: [1, 3]}}", "space.patience: does not take every number of a range; want choice"),
        ("space: {seed: {choice: [42]}}", "space.seed: is the same for every trial; set it under train"),
        (
            "space: {batch_size: {choice: [2, 32]}, queries_per_passage: {choice: [1, 2]}}",
            "space: batch_size must hold 2 passages or more, 2 x queries_per_passage, got batch_size 2 with "
            "queries_per_passage 2",
        ),
    ],
)
def test_a_wrong_setting_is_refused_with_place_rule_and_value(refusal, text, problem):
    count, found = refusal(text)
    assert count == "1 problem"
    assert found.startswith(problem)


def test_a_combination_that_only_the_space_allows_is_allowed(accepted):
    accepted(
        "train: {batch_size: 128, queries_per_passage: 64}\n"
        "space: {batch_size: {choice: [128, 256]}, queries_per_passage: {choice: [64, 1]}}"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "not YAML: line 1, column 5: expected the node content, but found '<stream end>'"),
        ("train:\n\tepochs: 1", r"not YAML: line 2, column 1: found character '\t' that cannot start any token"),
        ("a: 2026-13-45", "not YAML: month must be in 1..12"),
        ("a\0", "not YAML: unacceptable character"),
        ("- a", "want settings by name, such as `search: {trials: 4}`, got ['a']"),
        ("3: 4", "want settings by name, such as `search: {trials: 4}`, got {3: 4}"),
        ("just text", "want settings by name, such as `search: {trials: 4}`, got 'just text'"),
        ("[" * 1000, "not YAML: "),
    ],
)
def test_a_file_that_holds_no_settings_is_refused(refusal, text, message):
    (line,) = refusal(text)
    assert line.startswith(message)


def test_a_file_that_is_not_utf8_is_refused(tmp_path):
    path = tmp_path / "latin.yaml"
    path.write_bytes("train: {base_model: modèle}".encode("latin-1"))
    with pytest.raises(InputError, match=r"latin\.yaml: not UTF-8 text \(byte 23\); save it as UTF-8"):
        load_config(path)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"none\.yaml: no such file; the configurations .* tune_configs/"):
        load_config(tmp_path / "none.yaml")


def test_a_folder_or_a_path_through_a_file_is_refused(tmp_path):
    (tmp_path / "file").touch()
    for path in (tmp_path, tmp_path / "file" / "config.yaml"):
        with pytest.raises(InputError, match=r": cannot be read \(.+\); name a YAML file"):
            load_config(path)


def test_a_trial_is_the_base_with_the_sampled_values_in_place():
    base = TrainConfig(epochs=5, scale=30)
    trial = trial_config(base, {"scale": "4e1", "batch_size": 64.0, "schedule": "linear"})
    assert trial == TrainConfig(epochs=5, scale=40, batch_size=64, schedule="linear")
    assert trial_config(base, {}) == base


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        ({"scale": 0, "seed": -1}, r"^train\.scale: must be > 0, got 0; train\.seed: must be >= 0, got -1$"),
        ({"queries_per_passage": 17}, r"^train: batch_size must hold 2 passages .* 32 with queries_per_passage 17$"),
        ({"learning_rte": 1}, r"^train\.learning_rte: no such setting; did you mean learning_rate\?$"),
    ],
)
def test_a_sample_that_is_not_legal_is_refused(sample, message):
    with pytest.raises(InputError, match=message):
        trial_config(TrainConfig(), sample)


@pytest.mark.parametrize(
    ("dimension", "inside", "outside"),
    [
        (Dimension(uniform=(0, 0.3)), [0, 0.1, 0.3], [-0.1, 0.4, "a", None]),
        (Dimension(log_uniform=(1, 100)), [1, 20.5, 100], [0, 101]),
        (Dimension(choice=(None, 3, "linear")), [None, 3, "linear"], [4, "cosine"]),
    ],
)
def test_a_dimension_knows_what_it_holds(dimension, inside, outside):
    assert all(dimension.contains(value) for value in inside)
    assert not any(dimension.contains(value) for value in outside)
    assert all(dimension.contains(value) for value in dimension.ends())


def test_a_configuration_cannot_be_changed():
    with pytest.raises(ValueError, match="frozen"):
        TrainConfig().epochs = 4
