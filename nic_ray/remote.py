"""A copy of a run in a place that outlives this machine: S3, GCS, HDFS, whatever pyarrow reads by its URI."""

import re
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

import pyarrow.fs

from nic_ray.errors import InputError, RunError

PATIENCE = "retry_limit_seconds"
SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


@dataclass(frozen=True)
class Mirror:
    """A folder of a file system; both travel to other processes."""

    filesystem: pyarrow.fs.FileSystem
    path: str
    """Without a slash at its end."""

    def __truediv__(self, name: str) -> "Mirror":
        """The folder or file of that name in it."""
        return Mirror(self.filesystem, f"{self.path}/{name}")

    def __str__(self) -> str:
        """For messages: what kind of file system it is, and where."""
        return f"{self.filesystem.type_name}:{self.path}"


def is_uri(place: str) -> bool:
    """Whether a place is one that this room is for, rather than a folder of this machine."""
    return SCHEME.match(place) is not None and not place.startswith("file://")


def local_folder(place: str) -> Path:
    """The folder of this machine that a place names which is no `is_uri`: a path, or one that is quoted in file://."""
    return Path(unquote(place.removeprefix("file://"))) if place.startswith("file://") else Path(place)


def mirror_at(uri: str) -> Mirror:
    """The place of a URI; nothing is written.

    Raises:
        InputError: pyarrow knows no such place, or it cannot be reached.
    """
    try:
        filesystem, path = pyarrow.fs.FileSystem.from_uri(_with_patience(uri))
        if not path.strip("/"):
            raise ValueError("it names no bucket and no folder")
        place = Mirror(filesystem, path.rstrip("/"))
        filesystem.get_file_info(place.path)
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        raise InputError(
            f"storage: {uri.partition('?')[0]} cannot be reached ({' '.join(str(error).split())[:200]}); want a URI "
            "that pyarrow reads, such as s3://bucket/folder (%20 for a space, %25 for a %), its credentials in the "
            "environment"
        ) from None
    return place


def _with_patience(uri: str) -> str:
    """Bound how long a bucket of Google's is tried that cannot be reached: else for many minutes, deaf to Ctrl-C."""
    if not uri.startswith(("gs://", "gcs://")) or PATIENCE in uri:
        return uri
    return f"{uri}{'&' if '?' in uri else '?'}{PATIENCE}=10"


def exists(place: Mirror) -> bool:
    """Whether a file or a folder is there."""
    with _explained(place):
        return bool(place.filesystem.get_file_info(place.path).type != pyarrow.fs.FileType.NotFound)


def push(local: Path, place: Mirror) -> None:
    """Copy a file, or a folder with all in it, to a place; what is there of that name is replaced.

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
    """Copy an SQLite database that may be written to meanwhile.

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
    """Copy a file, or a folder with all in it, from a place; files that are there already are replaced.

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
    """Names of the folders in a place; none if it is not there.

    Raises:
        RunError: it cannot be read.
    """
    with _explained(place):
        found = place.filesystem.get_file_info(pyarrow.fs.FileSelector(place.path, allow_not_found=True))
    return sorted(info.base_name for info in found if info.type == pyarrow.fs.FileType.Directory)


def remove(place: Mirror) -> None:
    """Delete a folder with all in it, if it is there.

    Raises:
        RunError: it cannot be deleted.
    """
    with _explained(place):
        if exists(place):
            place.filesystem.delete_dir(place.path)


@contextmanager
def _explained(place: Mirror) -> Iterator[None]:
    try:
        yield
    except (OSError, pyarrow.ArrowException) as error:
        raise RunError(f"{place}: {' '.join(str(error).split())[:200]}; look at its room and credentials") from error
