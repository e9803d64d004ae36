"""Copies of files in another file system, here pyarrow's own for a folder of this machine."""

import sqlite3

import pyarrow.fs
import pytest

from nic_ray.errors import InputError, RunError
from nic_ray.remote import Mirror, _with_patience, exists, folders, is_uri, mirror_at, pull, push, push_database, remove


@pytest.fixture
def place(tmp_path):
    (tmp_path / "far").mkdir()
    return Mirror(pyarrow.fs.SubTreeFileSystem(str(tmp_path / "far"), pyarrow.fs.LocalFileSystem()), "bucket/folder")


def test_what_was_pushed_is_pulled_again(place, tmp_path):
    (tmp_path / "run" / "inner").mkdir(parents=True)
    (tmp_path / "run" / "a.txt").write_text("first")
    (tmp_path / "run" / "inner" / "b.txt").write_text("second")
    push(tmp_path / "run", place / "run")
    push(tmp_path / "run" / "a.txt", place / "alone" / "a.txt")
    assert exists(place / "run" / "inner" / "b.txt")
    assert folders(place) == ["alone", "run"]
    pull(place / "run", tmp_path / "back")
    assert (tmp_path / "back" / "a.txt").read_text() == "first"
    assert (tmp_path / "back" / "inner" / "b.txt").read_text() == "second"
    pull(place / "alone" / "a.txt", tmp_path / "new" / "a.txt")
    assert (tmp_path / "new" / "a.txt").read_text() == "first"


def test_a_second_push_replaces_the_first(place, tmp_path):
    for text in ("old", "new"):
        (tmp_path / "a.txt").write_text(text)
        push(tmp_path / "a.txt", place / "a.txt")
    pull(place / "a.txt", tmp_path / "a.txt")
    assert (tmp_path / "a.txt").read_text() == "new"


def test_nothing_is_where_nothing_was_put(place):
    assert not exists(place / "run")
    assert folders(place / "run") == []
    remove(place / "run")


def test_a_removed_folder_is_gone(place, tmp_path):
    (tmp_path / "a.txt").write_text("a")
    push(tmp_path / "a.txt", place / "run" / "a.txt")
    remove(place / "run")
    assert not exists(place / "run")


def test_a_database_is_copied_while_it_is_written_to(place, tmp_path):
    writer = sqlite3.connect(tmp_path / "study.db")
    writer.execute("create table t (a)")
    writer.execute("insert into t values (1)")
    writer.commit()
    writer.execute("insert into t values (2)")  # and not yet committed
    push_database(tmp_path / "study.db", place / "study.db")
    writer.close()
    pull(place / "study.db", tmp_path / "copy.db")
    copy = sqlite3.connect(tmp_path / "copy.db")
    assert copy.execute("select a from t").fetchall() == [(1,)]
    copy.close()


def test_what_cannot_be_read_says_where(place, tmp_path):
    with pytest.raises(RunError, match=r"bucket/folder/nothing.*; look at its room and credentials"):
        pull(place / "nothing", tmp_path / "nothing")


def test_a_place_that_nobody_knows_is_refused():
    with pytest.raises(InputError, match=r"storage: nowhere://bucket cannot be reached .*want a URI"):
        mirror_at("nowhere://bucket")


@pytest.mark.parametrize("uri", ["s3://", "s3:///"])
def test_an_address_that_names_nothing_is_refused(uri):
    with pytest.raises(InputError, match=r"^storage: .* cannot be reached .*want a URI"):
        mirror_at(uri)


@pytest.mark.parametrize(
    ("uri", "asked"),
    [
        ("gs://bucket/a", "gs://bucket/a?retry_limit_seconds=10"),
        ("gs://bucket/a?scheme=http", "gs://bucket/a?scheme=http&retry_limit_seconds=10"),
        ("gs://bucket/a?retry_limit_seconds=60", "gs://bucket/a?retry_limit_seconds=60"),
        ("s3://bucket/a", "s3://bucket/a"),
    ],
)
def test_a_bucket_of_googles_is_not_tried_for_ever(uri, asked):
    assert _with_patience(uri) == asked
    if uri.startswith("gs"):
        pyarrow.fs.FileSystem.from_uri(asked)  # knows the option; asks nobody yet


@pytest.mark.parametrize(
    ("place", "expected"),
    [("s3://bucket/a", True), ("/mnt/shared", False), ("file:///mnt/shared", False), ("a", False)],
)
def test_uris_are_told_from_folders(place, expected):
    assert is_uri(place) == expected
