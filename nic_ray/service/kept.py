"""Where a service keeps what its next process need not find out again."""

import contextlib
import os
import tempfile
from pathlib import Path


def own_folder() -> Path:
    """A folder for temporary files that only this user can write to.

    Raises:
        OSError: there is none.
    """
    folder = Path(tempfile.gettempdir(), f"nic_ray-service-{os.getuid()}")
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    status = folder.lstat()
    if status.st_uid != os.getuid() or status.st_mode & 0o077 or not folder.is_dir():
        raise PermissionError(f"{folder} is not a folder of this user alone")
    return folder
