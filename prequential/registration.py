"""Archives in the hands of libraries that keep lists of compressors: shutil and fsspec."""

from __future__ import annotations

import os
import shutil
import tarfile
from tempfile import TemporaryDirectory
from typing import Any

from prequential import stream

_FORMAT = "pqtar"
_SUFFIX = ".tar.pq"


def register_archive_formats(**options: Any) -> None:
    """Have `shutil.make_archive` make ``.tar.pq`` (format "pqtar"), and `unpack_archive` unpack it.

    Options are those of `compress`.
    """
    shutil.register_archive_format(
        _FORMAT, _make, [("options", options)], "tar file compressed by prequential"
    )
    if _FORMAT in (name for name, *_ in shutil.get_unpack_formats()):
        shutil.unregister_unpack_format(_FORMAT)
    shutil.register_unpack_format(
        _FORMAT, [_SUFFIX], _unpack, [], "tar file compressed by prequential"
    )


def register_fsspec() -> None:
    """Have fsspec (the extra `io`) open ``.pq`` with compression="prequential" or "infer"."""
    from fsspec.compression import register_compression

    register_compression("prequential", stream.PreqFile, "pq", force=True)


def _make(
    base_name: str, base_dir: str, *, options: dict[str, Any], dry_run: bool = False, **more: Any
) -> str:
    """What `shutil.make_archive` calls; more is for the tar file within."""
    target = base_name + _SUFFIX
    if dry_run:
        return target
    os.makedirs(os.path.dirname(target) or os.curdir, exist_ok=True)
    with stream.PreqFile(target, "wb", **options) as archive, TemporaryDirectory() as folder:
        name = os.path.join(folder, "content")
        tar = shutil.make_archive(name, "tar", more.pop("root_dir", None), base_dir, **more)
        with open(tar, "rb") as content:
            shutil.copyfileobj(content, archive)
    return target


_make.supports_root_dir = True  # type: ignore[attr-defined]  # or shutil changes the directory


def _unpack(name: str, folder: str, *, filter: Any = "data") -> None:
    """What `shutil.unpack_archive` calls. By default nothing is written outside of the folder."""
    with stream.PreqFile(name) as archive:
        try:
            with tarfile.open(fileobj=archive, mode="r:") as tar:
                tar.extractall(folder, filter=filter)
        except tarfile.ReadError as error:
            raise shutil.ReadError(f"{name}: does not hold a tar file: {error}") from error
