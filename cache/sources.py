"""Sources that are not on this machine: videos and manifests behind a URL, read through fsspec (extra ``[remote]``).

A source is read once, front to back: its digest needs every byte anyway, and one request gives one version of it. What
a server says of it without sending it (size, ETag, time of change) tells whether it may have changed since.

Credentials may be part of a URL, as userinfo or as a signed query. They reach the server and nothing else: whatever is
shown or stored is the URL without them, and errors are told in words of our own.
"""

from __future__ import annotations

import errno
import os
import posixpath
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from http import HTTPStatus
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote, unquote

import xxhash

from framecache.cache.errors import InputError

PROTOCOLS = ("s3", "gs", "https", "http", "memory")  # the last of them is of this process, and good for tests
_TEXT = re.compile(r"([A-Za-z][A-Za-z0-9+.:-]*)://")  # also fsspec's chains, as a::b://, to refuse them
_COLLAPSED = re.compile(rf"({'|'.join(PROTOCOLS)}):/(?!/)", re.IGNORECASE)  # what pathlib makes of a URL
_PHRASES = {status.value: status.phrase for status in HTTPStatus}
_WEB = ("https", "http")
_LIBRARIES = {"s3": "s3fs", "gs": "gcsfs", "https": "fsspec[http]", "http": "fsspec[http]", "memory": "fsspec"}
_CONNECT_SECONDS, _SILENCE_SECONDS = 30.0, 60.0
_STREAM_BYTES = 1 << 20
_BLOCK_BYTES = 16 << 20  # a request of an object store
_MAX_TEXT_BYTES = 1 << 30
# What the file systems of fsspec know of a version; each has some of these.
_VERSION_KEYS = (
    "ETag",
    "etag",
    "Last-Modified",
    "LastModified",
    "updated",
    "mtime",
    "modified",
    "created",
    "generation",
    "VersionId",
    "Content-MD5",
    "md5Hash",
    "Digest",
)


@dataclass(frozen=True, repr=False)
class Url:
    """Where a remote source is.

    Attributes:
        text: The whole URL, which may hold credentials; ``str()`` and ``repr()`` leave them out.
    """

    text: str

    @property
    def protocol(self) -> str:
        """One of :data:`PROTOCOLS`."""
        return self.text.partition(":")[0].lower()

    @property
    def _host(self) -> str:
        return self.text.partition("://")[2].partition("/")[0].partition("?")[0].partition("#")[0]

    @property
    def _written_path(self) -> str:
        return re.split(r"[?#]", self.text.partition("://")[2], maxsplit=1)[0].partition("/")[2]

    @property
    def key(self) -> PurePosixPath:
        """Its path on the host or in the bucket, as plain text."""
        written = unquote(self._written_path) if self.protocol in _WEB else self._written_path
        return PurePosixPath(f"{self._host}/{written}" if self.protocol == "memory" else written)

    @property
    def name(self) -> str:
        """The last part of its path."""
        return self.key.name

    @property
    def suffix(self) -> str:
        """The suffix of its name, with the dot."""
        return self.key.suffix

    @property
    def parent(self) -> Url:
        """The folder that it is in; a signed query does not fit other files, so it is left out."""
        return Url(f"{self.protocol}://{self._host}/{posixpath.dirname(self._written_path)}")

    def joined(self, relative: str) -> Url:
        """What lies at a relative path below it."""
        written = quote(relative) if self.protocol in _WEB else relative
        base = re.split(r"[?#]", self.text, maxsplit=1)[0]
        return Url(f"{base.rstrip('/')}/{written}")

    def __repr__(self) -> str:
        return f"Url({str(self)!r})"

    def __str__(self) -> str:
        """The URL without userinfo, query and fragment."""
        return f"{self.protocol}://{self._host.rpartition('@')[2]}/{self._written_path}"


Source = Path | Url


@dataclass(frozen=True)
class RemoteStat:
    """What a server says of a source without sending it.

    Attributes:
        num_bytes: Its size; None if the server does not say.
        signature: Changes whenever the source may have changed; empty if the server does not tell versions apart.
    """

    num_bytes: int | None
    signature: str


def as_source(source: str | Path | Url) -> Source:
    """A URL where the text is one, else a path; also for a URL that was taken for a path on the way.

    Raises:
        InputError: The URL is of a protocol that is not read.
    """
    if isinstance(source, Url):
        return source
    text = str(source)
    match = _TEXT.match(text) if isinstance(source, str) else None
    if match is None:
        collapsed = _COLLAPSED.match(text)
        if collapsed is None:
            return Path(source)
        text = f"{collapsed[1]}://{text[collapsed.end() :]}"
    elif match[1].lower() not in PROTOCOLS:
        raise InputError(
            f"{match[1]}://…: expected a path, or a URL of one of {', '.join(f'{name}://' for name in PROTOCOLS)}"
        )
    return Url(text)


def public_text(path: Path) -> str:
    """A path as it may be kept in a file: without the credentials of a URL that was taken for one."""
    return str(as_source(path))


def require_library(url: Url) -> None:
    """Refuses a URL whose library is not there, before anything is written.

    Raises:
        InputError: It is not installed; the message says how to install it.
    """
    _filesystem(url.protocol)


def stat_url(url: Url) -> RemoteStat:
    """Asks for size and version; transfers nothing of the content.

    Raises:
        OSError: There is no such source, or no answer; the message names no credentials.
    """
    with _told():
        info: Mapping[str, Any] = _filesystem(url.protocol).info(url.text)
    if info.get("type") == "directory":
        raise OSError(errno.EISDIR, "a folder, not a file")
    size = info.get("size")
    versions = [f"{key}={info[key]}" for key in _VERSION_KEYS if info.get(key) is not None]
    signature = "\n".join([str(url), f"size={size}", *versions])
    return RemoteStat(size, xxhash.xxh3_128_hexdigest(signature.encode("utf-8", "replace")) if versions else "")


def read_url(url: Url, num_bytes: int | None = None) -> Iterator[bytes]:
    """The content in blocks, in one pass.

    Args:
        url: What to read.
        num_bytes: Its size, as :func:`stat_url` told it; another number of bytes is an error.

    Raises:
        OSError: It cannot be read, or not all of it came; the message names no credentials.
    """
    read = 0
    options: dict[str, Any] = {"block_size": _BLOCK_BYTES, "cache_type": "readahead"}
    if url.protocol in _WEB:
        # One request for all of it, without ranges; any size keeps fsspec from asking for it once more.
        options = {"block_size": 0, "size": num_bytes or 1}
    with _told(), _filesystem(url.protocol).open(url.text, "rb", **options) as stream:
        while block := stream.read(_STREAM_BYTES):
            read += len(block)
            yield block
    if num_bytes is not None and read != num_bytes:
        raise OSError(errno.EIO, f"the transfer broke off: {read} of {num_bytes} bytes came")


def read_text_url(url: Url) -> bytes:
    """All of a small source, such as a manifest; raises as :func:`read_url` does."""
    parts, total = [], 0
    for block in read_url(url):
        total += len(block)
        if total > _MAX_TEXT_BYTES:
            raise OSError(errno.EFBIG, f"more than {_MAX_TEXT_BYTES:,} bytes")
        parts.append(block)
    return b"".join(parts)


@cache
def _filesystem(protocol: str) -> Any:
    """The file system of fsspec; its settings may also come from fsspec's own configuration and environment.

    Raises:
        InputError: The library for it is not installed.
    """
    try:
        import fsspec

        options: dict[str, Any] = {}
        if protocol in _WEB:
            import aiohttp

            timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS, sock_read=_SILENCE_SECONDS)
            options = {
                "client_kwargs": {"timeout": timeout, "trust_env": True},  # proxies, and passwords of ~/.netrc
                "headers": {"Accept-Encoding": "identity"},  # the bytes that the digest is of
            }
        return fsspec.filesystem(protocol, **options)
    except ImportError as error:
        raise InputError(
            f"{protocol}:// is read by {_LIBRARIES[protocol]}, which is not installed; pip install 'framecache[remote]'"
        ) from error


@contextmanager
def _told() -> Iterator[None]:
    """Turns whatever a file system raises into an OSError whose words are ours: theirs may hold the URL."""
    try:
        yield
    except (GeneratorExit, InputError):
        raise
    except Exception as error:
        number, reason = _reason(error)
        raise OSError(number, reason) from None


def _reason(error: BaseException) -> tuple[int, str]:
    causes: list[BaseException] = [error]
    while (cause := causes[-1].__cause__) is not None and len(causes) < 8:
        causes.append(cause)
    for cause in causes:
        status = getattr(cause, "status", None)
        if isinstance(status, int):
            return errno.EIO, f"HTTP {status} {_PHRASES.get(status, '')}".rstrip()
    for cause in reversed(causes):
        if isinstance(cause, TimeoutError):
            return errno.ETIMEDOUT, f"no answer for {_SILENCE_SECONDS:g} s"
        if type(cause).__name__ in ("ClientPayloadError", "ServerDisconnectedError", "IncompleteRead"):
            return errno.EIO, "the transfer broke off"
        number = getattr(cause, "errno", None)
        if isinstance(number, int) and number > 0:
            return number, os.strerror(number)
    if any(isinstance(cause, FileNotFoundError) for cause in causes):
        return errno.ENOENT, "not found"
    if any(isinstance(cause, PermissionError) for cause in causes):
        return errno.EACCES, "access denied"
    return errno.EIO, type(causes[-1]).__name__
