"""A copy of a run in storage that outlives this machine: S3, GCS, HDFS or any other that pyarrow reads by its URI."""

import re
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

import pyarrow.fs

from nic_ray.errors import InputError, RunError, in_one_line

PATIENCE = "retry_limit_seconds"
SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


@dataclass(frozen=True)
class Mirror:
    """A folder of a file system; both can be sent to other processes."""

    filesystem: pyarrow.fs.FileSystem
    path: str
    """Path without a trailing slash."""

    def __truediv__(self, name: str) -> "Mirror":
        """The folder or file with this name in the folder."""
        return Mirror(self.filesystem, f"{self.path}/{name}")

    def __str__(self) -> str:
        """The type of the file system and the path, for messages."""
        return f"{self.filesystem.type_name}:{self.path}"


def is_uri(place: str) -> bool:
    """Whether a place is a URI of remote storage, which this module handles, rather than a folder on this machine."""
    return SCHEME.match(place) is not None and not place.startswith("file://")


def local_folder(place: str) -> Path:
    """The folder on this machine that a place other than an `is_uri` names: a path, or a quoted path after file://."""
    return Path(unquote(place.removeprefix("file://"))) if place.startswith("file://") else Path(place)


def mirror_at(uri: str) -> Mirror:
    """The place that a URI names; nothing is written.

    Raises:
        InputError: pyarrow does not support the URI, or the place cannot be reached.
    """
    try:
        filesystem, path = pyarrow.fs.FileSystem.from_uri(_with_patience(uri))
        if not path.strip("/"):
            raise ValueError("it names no bucket and no folder")
        place = Mirror(filesystem, path.rstrip("/"))
        filesystem.get_file_info(place.path)
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        raise InputError(
            f"storage: {uri.partition('?')[0]} cannot be reached ({in_one_line(error)}); want a URI "
            "that pyarrow reads, such as s3://bucket/folder (%20 for a space, %25 for a %), its credentials in the "
            "environment"
        ) from None
    return place


def _with_patience(uri: str) -> str:
    """Limit the retries for an unreachable Google bucket, which would last many minutes and ignore Ctrl-C."""
    if not uri.startswith(("gs://", "gcs://")) or PATIENCE in uri:
        return uri
    return f"{uri}{'&' if '?' in uri else '?'}{PATIENCE}=10"


def exists(place: Mirror) -> bool:
    """Whether a file or a folder exists at a place."""
    with _explained(place):
        return bool(place.filesystem.get_file_info(place.path).type != pyarrow.fs.FileType.NotFound)


def push(local: Path, place: Mirror) -> None:
    """Copy a file, or a folder with all its contents, to a place; existing files of the same name are replaced.

    Raises:
        RunError: it cannot be written.
    """
    with _explained(place):
        if local.is_dir():
            place.filesystem.create_dir(place.path, recursive=True)
        else:
            place.filesystem.create_dir(place.path.rpartition("/")[0], recursive=True)
        pyarrow.fs.copy_files(
            str(local), place.path, source_filesystem=pyarrow.fs.LocalFileSystem(),
            destination_filesystem=place.filesystem, use_threads=False,
        )  # fmt: skip


def push_database(local: Path, place: Mirror) -> None:
    """Copy an SQLite database, which other processes may be writing to during the copy.

    Raises:
        RunError: it cannot be written.
    """
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / local.name
        source, target = sqlite3.connect(local), sqlite3.connect(copy)
        try:
            source.backup(target)
        finally:
            source.close()
            target.close()
        push(copy, place)


def pull(place: Mirror, local: Path) -> None:
    """Copy a file, or a folder with all its contents, from a place; existing local files are replaced.

    Raises:
        RunError: it cannot be read.
    """
    with _explained(place):
        info = place.filesystem.get_file_info(place.path)
        (local if info.type == pyarrow.fs.FileType.Directory else local.parent).mkdir(parents=True, exist_ok=True)
        pyarrow.fs.copy_files(
            place.path, str(local), source_filesystem=place.filesystem,
            destination_filesystem=pyarrow.fs.LocalFileSystem(), use_threads=False,
        )  # fmt: skip


def folders(place: Mirror) -> list[str]:
    """Names of the folders in a place; empty if the place does not exist.

    Raises:
        RunError: the place cannot be read.
    """
    with _explained(place):
        entries = place.filesystem.get_file_info(pyarrow.fs.FileSelector(place.path, allow_not_found=True))
    return sorted(info.base_name for info in entries if info.type == pyarrow.fs.FileType.Directory)


def remove(place: Mirror) -> None:
    """Delete a folder with all its contents, if it exists.

    Raises:
        RunError: the folder cannot be deleted.
    """
    with _explained(place):
        if exists(place):
            place.filesystem.delete_dir(place.path)


@contextmanager
def _explained(place: Mirror) -> Iterator[None]:
    try:
        yield
    except (OSError, pyarrow.ArrowException) as error:
        raise RunError(f"{place}: {in_one_line(error)}; look at its room and credentials") from error
