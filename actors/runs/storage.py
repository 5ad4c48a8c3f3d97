"""Paths and URIs: local folders, and every store that pyarrow or fsspec reaches (s3, gs, abfs, hf, memory...)."""

import fnmatch
import os
import uuid
from dataclasses import dataclass

import pyarrow as pa
from pyarrow import fs

from actors.errors import UserError


@dataclass(frozen=True)
class Storage:
    """A folder or file on some file system. Picklable, so that it can travel to actors."""

    filesystem: fs.FileSystem
    path: str

    def __truediv__(self, name: str) -> "Storage":
        return Storage(self.filesystem, f"{self.path.rstrip('/')}/{name}")

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rstrip("/").rsplit("/", 1)[-1]

    def exists(self) -> bool:
        """Whether there is a file or folder."""
        return self.filesystem.get_file_info(self.path).type != fs.FileType.NotFound

    def names(self) -> list[str]:
        """The names of the files and folders in this folder; none if there is no such folder."""
        found = self.filesystem.get_file_info(fs.FileSelector(self.path, allow_not_found=True))
        return sorted(info.base_name for info in found)

    def files(self, recursive: bool = False) -> list[fs.FileInfo]:
        """The files in this folder, by path; none if there is no such folder."""
        selector = fs.FileSelector(self.path, allow_not_found=True, recursive=recursive)
        found = [info for info in self.filesystem.get_file_info(selector) if info.type == fs.FileType.File]
        return sorted(found, key=lambda info: info.path)

    def read_bytes(self) -> bytes:
        """The whole file."""
        with self.filesystem.open_input_stream(self.path, compression=None) as stream:
            return stream.read()

    def write_bytes(self, data: bytes | pa.Buffer) -> None:
        """Write the file under a temporary name, then rename it: readers see the whole file or none."""
        temporary = self.parent / f".{self.name}.{uuid.uuid4().hex}.tmp"
        with temporary.filesystem.open_output_stream(temporary.path) as stream:
            stream.write(data)
        self.filesystem.move(temporary.path, self.path)

    def make_folder(self) -> None:
        """Create this folder and those above it."""
        self.filesystem.create_dir(self.path, recursive=True)

    def delete_file(self) -> None:
        """Delete this file; it is no error if it is gone already."""
        try:
            self.filesystem.delete_file(self.path)
        except FileNotFoundError:
            return

    def delete_folder(self) -> None:
        """Delete this folder and all in it, if there is one."""
        if self.exists():
            self.filesystem.delete_dir(self.path)

    @property
    def parent(self) -> "Storage":
        """The folder above."""
        return Storage(self.filesystem, self.path.rstrip("/").rsplit("/", 1)[0] or "/")


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
