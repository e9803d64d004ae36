"""Paths with any character in them: each is taken as it stands, by everything that a path is handed to."""

import json
import shutil
from pathlib import Path

import optuna
import pyarrow.fs
import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from nic_ray import study
from nic_ray.bundle.files import find_faults, write_files
from nic_ray.config_file import dump_config, load_config
from nic_ray.dataset.pairs import read_pairs
from nic_ray.errors import InputError
from nic_ray.model import base
from nic_ray.record import add_ended, checkpoints, read_ended, study_url, training_log
from nic_ray.remote import Mirror, exists, is_uri, local_folder, mirror_at, pull, push
from nic_ray.search import worker
from nic_ray.search.run import places

pieces = st.sampled_from(
    [*"ab %#?&=+$;:@!'\"[]{}()*~^`|<>\\é漢-.\t", "%25", "%2F", "$$", "{SCHEMA_VERSION}", "://", "🔧"]
)
names = (
    st.lists(pieces, min_size=1, max_size=8)
    .map(lambda found: "".join(found).strip("/"))
    .filter(lambda name: name.strip(".") and not {"", ".", ".."} & set(Path(name).parts))
)
ODD = "a b%25#?é'[1]{x}$$&c=1;+"


def several(count):
    return settings(max_examples=count, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def fresh(tmp_path_factory):
    """A folder of an odd name, each time in another one."""

    def make(name):
        folder = tmp_path_factory.mktemp("odd") / name
        folder.mkdir(parents=True)
        return folder

    return make


@several(20)
@example("50%25")
@example(ODD)
@given(names)
def test_a_study_lies_where_its_run_folder_is_and_is_read_again(fresh, name):
    study_file = fresh(name) / "study.db"
    storage = optuna.storages.RDBStorage(study_url(study_file))
    optuna.create_study(study_name=study.NAME, storage=storage).add_trial(optuna.trial.create_trial(value=0.5))
    storage.engine.dispose()
    assert study_file.is_file()
    assert [path.name for path in study_file.parent.iterdir()] == ["study.db"]
    found = study.open_study(study_file)
    assert len(found.trials) == 1
    found._storage._backend.engine.dispose()
    assert len(study.read_courses(study_file, {}, "mrr/macro")[0].trials) == 1


@several(100)
@example("50%25")
@example("a://b")
@given(names)
def test_storage_names_the_folder_that_it_says_as_a_path_and_quoted(name):
    folder = Path("/shared") / name
    for storage in (str(folder), folder.as_uri()):
        assert not is_uri(storage)
        assert local_folder(storage) == folder
        assert places(storage, Path("out"), Path("runs")) == (folder / "models", folder / "runs")


def test_a_path_that_is_not_quoted_keeps_what_would_end_it_in_an_address():
    assert local_folder("file:///shared/a#b?c d") == Path("/shared/a#b?c d")
    assert not is_uri("/shared/a://b")
    assert not is_uri("shared/a://b")


@several(100)
@given(names)
def test_ray_takes_a_run_folder_for_a_path(name):
    folder = Path("/runs") / name
    given_path = worker.storage_of(folder, None, "train")["storage_path"]
    filesystem, path = pyarrow.fs.FileSystem.from_uri(given_path)  # as Ray does
    assert (filesystem.type_name, Path(path)) == ("local", folder / "train")


@several(20)
@given(names)
def test_a_copy_elsewhere_keeps_every_name(fresh, name):
    place = mirror_at(fresh("place").as_uri()) / name
    local = fresh(name)
    (local / "metrics.csv").write_text("1")
    assert not exists(place)
    push(local, place)
    assert exists(place / "metrics.csv")
    assert isinstance(place, Mirror)
    pull(place, local / "again")
    assert (local / "again" / "metrics.csv").read_text() == "1"


@several(20)
@given(names)
def test_files_of_a_run_are_found_in_any_folder(fresh, name):
    folder = fresh(name)
    add_ended(folder, "trial-000", {"status": "finished"})
    assert read_ended(folder).keys() == {"trial-000"}
    trial = folder / "ray" / "trial-000"
    (trial / "checkpoint_000000").mkdir(parents=True)
    (trial / "checkpoint_000000" / "state.pt").touch()
    (trial / "training.log").write_text("said\n")
    assert checkpoints(folder, "trial-000") == [trial / "checkpoint_000000"]
    assert training_log(folder, "trial-000") == "trial-000\nsaid\n"


@several(20)
@given(names)
def test_settings_keep_every_path_and_pairs_are_read_there(fresh, tiny_pairs_file, name):
    folder = fresh(name)
    pairs = Path(shutil.copy(tiny_pairs_file, folder / "pairs.jsonl"))
    written = {"data": {"pairs": str(pairs)}, "guard": {"retention_set": str(pairs)}, "storage": str(folder)}
    (folder / "config.yaml").write_text(yaml.safe_dump(written, allow_unicode=True), encoding="utf-8")
    config = load_config(folder / "config.yaml")
    assert (config.data.pairs, config.guard.retention_set, config.storage) == (pairs, pairs, str(folder))
    (folder / "again.yaml").write_text(dump_config(config), encoding="utf-8")
    assert load_config(folder / "again.yaml") == config
    assert len(read_pairs(pairs)) == 48


@several(3)
@example(ODD)
@given(names)
def test_a_base_model_is_loaded_from_any_folder_and_a_bundle_written_to_it(fresh, tiny_model_folder, name):
    folder = fresh(name)
    model = shutil.copytree(tiny_model_folder, folder / name)
    assert base.load(str(model)).name == str(model)
    bundle = folder / "out" / name

    def fill(unfinished):
        (unfinished / "weights").write_text("1")

    write_files(bundle, fill, {"name": name, "base_model": str(model)}, overwrite=False)
    assert find_faults(bundle) == []
    assert json.loads((bundle / "metadata.json").read_text(encoding="utf-8"))["base_model"] == str(model)


def test_an_address_that_is_not_quoted_is_refused_with_the_way_out():
    with pytest.raises(InputError, match=r"s3://bucket/a b cannot be reached .* \(%20 for a space"):
        mirror_at("s3://bucket/a b")
