"""Paths and URIs: local folders, and every store that pyarrow or fsspec reaches (s3, gs, abfs, hf, memory...).

Every call is repeated if it fails in a way that may pass (`actors.runs.retries`): for seconds, or for minutes on a
storage that is `patient()`, as those of runs at work are.
"""

import contextlib
import fnmatch
import os
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

import pyarrow as pa
from pyarrow import fs

from actors.errors import UserError
from actors.runs.retries import retried

# File systems on which a file is there from its first byte on. On all others (object stores, memory) it appears when
# its stream is closed.
GROWING: Final = ("local", "file", "hdfs", "sftp", "ssh", "smb", "nfs", "dbfs")


@dataclass(frozen=True)
class Storage:
    """A folder or file on some file system. Picklable, so that it can travel to actors.

    Calls raise OSError, after their patience StorageLost if the storage is patient.
    """

    filesystem: fs.FileSystem
    path: str
    is_patient: bool = False

    def __truediv__(self, name: str) -> "Storage":
        return replace(self, path=f"{self.path.rstrip('/')}/{name}")

    def patient(self) -> "Storage":
        """The same place for a run at work, which waits for minutes rather than fail."""
        return replace(self, is_patient=True)

    def hasty(self) -> "Storage":
        """The same place for a person who waits for the answer."""
        return replace(self, is_patient=False)

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rstrip("/").rsplit("/", 1)[-1]

    @retried
    def exists(self) -> bool:
        """Whether there is a file or folder."""
        try:
            return self.filesystem.get_file_info(self.path).type != fs.FileType.NotFound
        except NotADirectoryError:  # fsspec says so of a path below a file
            return False

    @retried
    def names(self) -> list[str]:
        """The names of the files and folders in this folder; none if there is no such folder."""
        found = self.filesystem.get_file_info(fs.FileSelector(self.path, allow_not_found=True))
        return sorted(info.base_name for info in found)

    @retried
    def files(self, recursive: bool = False) -> list[fs.FileInfo]:
        """The files in this folder, by path; none if there is no such folder."""
        selector = fs.FileSelector(self.path, allow_not_found=True, recursive=recursive)
        found = [info for info in self.filesystem.get_file_info(selector) if info.type == fs.FileType.File]
        return sorted(found, key=lambda info: info.path)

    @retried
    def read_bytes(self) -> bytes:
        """The whole file."""
        with self.filesystem.open_input_stream(self.path, compression=None) as stream:
            return stream.read()

    @retried
    def write_bytes(self, data: bytes | pa.Buffer) -> None:
        """Write the file at once: readers see the whole file or none."""
        with self.writing() as stream:
            stream.write(data)

    @contextlib.contextmanager
    def writing(self) -> Iterator[Any]:
        """A stream into this file, creating folders above it.

        Readers see the file when the context ends without an exception, and not before. Not repeated: the caller holds
        the data.
        """
        if not self._grows:
            stream = self.filesystem.open_output_stream(self.path)
            try:
                yield stream
                stream.close()
            except BaseException:
                self._abandon(stream)
                raise
            return
        temporary = self.parent / f".{self.name}.{uuid.uuid4().hex}.tmp"
        try:
            with temporary._created() as stream:
                yield stream
            self.filesystem.move(temporary.path, self.path)
        except BaseException:
            temporary._discard()
            raise

    @retried
    def make_folder(self) -> None:
        """Create this folder and those above it."""
        self.filesystem.create_dir(self.path, recursive=True)

    @retried
    def delete_file(self) -> None:
        """Delete this file; it is no error if it is gone already."""
        try:
            self.filesystem.delete_file(self.path)
        except FileNotFoundError:
            return

    @retried
    def delete_folder(self) -> None:
        """Delete this folder and all in it, if there is one."""
        try:
            self.filesystem.delete_dir(self.path)
        except FileNotFoundError:
            return

    @property
    def parent(self) -> "Storage":
        """The folder above."""
        return replace(self, path=self.path.rstrip("/").rsplit("/", 1)[0] or "/")

    @property
    def is_local(self) -> bool:
        """Whether it is a path of this machine, which other machines may not see."""
        return isinstance(self.filesystem, fs.LocalFileSystem)

    @property
    def _grows(self) -> bool:
        return any(name in self.filesystem.type_name for name in GROWING)

    def _created(self) -> Any:
        """A stream into this new file, whose folder may be new as well."""
        try:
            return self.filesystem.open_output_stream(self.path)
        except FileNotFoundError:
            self.filesystem.create_dir(self.parent.path, recursive=True)
            return self.filesystem.open_output_stream(self.path)

    def _discard(self) -> None:
        """Delete a file that was not finished, if that is possible: another error is on its way."""
        with contextlib.suppress(OSError):
            self.filesystem.delete_file(self.path)

    def _abandon(self, stream: Any) -> None:
        """Closing a stream is the only way to end it, and completes the file."""
        with contextlib.suppress(OSError):
            stream.close()
        self._discard()


def open_storage(uri: str) -> Storage:
    """The storage behind a path or URI. Raises UserError for an unknown scheme."""
    if "://" not in uri:
        return Storage(fs.LocalFileSystem(), os.path.abspath(os.path.expanduser(uri)))
    try:
        return Storage(*fs.FileSystem.from_uri(uri))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        pass  # not one of pyarrow's own: fsspec knows many more
    import fsspec

    try:
        filesystem, path = fsspec.core.url_to_fs(uri)
    except (ValueError, ImportError) as error:
        raise UserError(f"cannot open {uri!r}: {error}") from None
    return Storage(fs.PyFileSystem(fs.FSSpecHandler(filesystem)), path)


def list_files(uri: str, suffixes: tuple[str, ...]) -> list[tuple[Storage, int]]:
    """The files behind a path, folder or glob, each with its size in bytes, by path.

    Files in a folder count if they end in one of `suffixes` and are not hidden. Raises UserError if there are none.
    """
    globbed = any(mark in uri for mark in "*?[")
    if globbed:
        # Split before the first wildcard, so that a '?' is not taken for a URI query.
        first = min(position for position in (uri.find(mark) for mark in "*?[") if position >= 0)
        storage = open_storage(uri[:first].rsplit("/", 1)[0] or "/") if "/" in uri[:first] else open_storage(".")
        rest = uri[:first].rsplit("/", 1)[-1] + uri[first:]
        pattern = f"{storage.path.rstrip('/')}/{rest}"
        infos = [info for info in storage.files(recursive=True) if fnmatch.fnmatchcase(info.path, pattern)]
    else:
        storage = open_storage(uri)
        info = storage.filesystem.get_file_info(storage.path)
        if info.type == fs.FileType.NotFound:
            raise UserError(f"no such file or folder: {uri}")
        infos = [info] if info.type == fs.FileType.File else storage.files(recursive=True)
    visible = [info for info in infos if not _is_hidden(info.path, storage.path)]
    files = [info for info in visible if info.path.lower().endswith(suffixes)]
    if not files:
        found = f"; found {visible[0].path}" if visible else ""
        raise UserError(f"{uri} holds no file that ends in {', '.join(suffixes)}{found}")
    return [(Storage(storage.filesystem, info.path), int(info.size or 0)) for info in files]


def _is_hidden(path: str, root: str) -> bool:
    inside = path.removeprefix(root)
    return any(part.startswith((".", "_")) for part in inside.split("/") if part)
