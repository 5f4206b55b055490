"""Remote sources on their way to the decoder: each comes once, into a temporary file, and is digested as it comes.

Why a file and not a stream that FFmpeg reads from: the content digest needs every byte, so that a stream with seeks
would transfer a video once for its digest and more than once for its frames (an index at the end of the file, the
counting pass of ``num=N``, a shortcut's second look). Through fsspec's block caches, an mp4 with its index at the end
took 2.0 to 2.9 times its size in 7 to 19 requests; here it takes its size in 2. A file works with servers that know no
ranges, too, and what is decoded is what was digested. Meanwhile others are decoded: transfers run ahead of the
decoders, by a bounded number of files. The decode processes see files only; FFmpeg opens no URL, whatever a video or a
playlist names.
"""

from __future__ import annotations

import errno
import os
import tempfile
import threading
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import xxhash

from framecache.cache.sources import Url, read_url, stat_url
from framecache.extract.limits import Limits


@dataclass(frozen=True)
class Fetched:
    """A remote source that is here.

    Attributes:
        path: The temporary file.
        digest: Content digest, as :func:`framecache.cache.fingerprint.digest_source` gives it.
        stat: Signature of the version that was transferred, or of one before it: never of a later one.
    """

    path: Path
    digest: str
    stat: str


class Downloads:
    """Transfers sources ahead of those who ask for them, into a folder that is gone at the end.

    Args:
        urls: What will be asked for, in about this order; a source may be asked for several times.
        num_readers: How many may ask at the same time.
        limits: What one source may cost.
        num_ahead: Sources that are transferred before anybody asks for them.
    """

    def __init__(self, urls: Sequence[Url], num_readers: int, limits: Limits, num_ahead: int = 2) -> None:
        self._uses = Counter(urls)
        self._order = list(self._uses)
        self._places = {url: place for place, url in enumerate(self._order)}
        self._begun = 0
        self._limits = limits
        self._num_ahead = num_readers - 1 + num_ahead
        self._futures: dict[Url, Future[Fetched]] = {}
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._folder = tempfile.TemporaryDirectory(prefix="framecache-", ignore_cleanup_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        self._folder.cleanup()

    def get(self, url: Url) -> Fetched:
        """Waits for a source.

        Raises:
            OSError: It cannot be transferred, or is larger than the limit.
        """
        with self._lock:
            if self._stopped.is_set():
                raise OSError(errno.ECANCELED, os.strerror(errno.ECANCELED))
            while self._begun < min(len(self._order), self._places[url] + 1 + self._num_ahead):
                self._begin(self._order[self._begun])
                self._begun += 1
            future = self._futures[url]
        return future.result()

    def release(self, url: Url) -> None:
        """Says that one of those who ask for the source is done with it; after the last its file goes."""
        with self._lock:
            self._uses[url] -= 1
            future = None if self._uses[url] else self._futures.pop(url, None)
        if future is not None and future.done() and future.exception() is None:
            future.result().path.unlink(missing_ok=True)

    def stop(self) -> None:
        """Whoever waits gets an OSError; transfers under way end at their next block."""
        self._stopped.set()
        with self._lock:
            futures = list(self._futures.values())
        for future in futures:
            with suppress(InvalidStateError):
                future.set_exception(OSError(errno.ECANCELED, os.strerror(errno.ECANCELED)))

    def _begin(self, url: Url) -> None:
        future = self._futures[url] = Future()
        # A daemon: one that hangs in a dead connection must not keep the process from ending.
        threading.Thread(target=self._serve, args=[url, future], daemon=True).start()

    def _serve(self, url: Url, future: Future[Fetched]) -> None:
        with suppress(InvalidStateError):
            try:
                future.set_result(self._fetch(url))
            except InvalidStateError:
                raise
            except BaseException as error:  # whoever waits for it gets it
                future.set_exception(error)

    def _fetch(self, url: Url) -> Fetched:
        # Asked before the transfer: had the source changed in between, the next run would transfer it again.
        stat, most = stat_url(url), int(self._limits.download_gb * 1e9)
        digest, read = xxhash.xxh3_128(), 0
        if stat.num_bytes is not None and stat.num_bytes > most:
            raise OSError(errno.EFBIG, self._limits.too_long)
        descriptor, name = tempfile.mkstemp(suffix=url.suffix, dir=self._folder.name)
        try:
            with os.fdopen(descriptor, "wb") as file:
                for block in read_url(url, stat.num_bytes):
                    if self._stopped.is_set():
                        raise OSError(errno.ECANCELED, os.strerror(errno.ECANCELED))
                    read += len(block)
                    if read > most:
                        raise OSError(errno.EFBIG, self._limits.too_long)
                    digest.update(block)
                    file.write(block)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        return Fetched(Path(name), str(digest.hexdigest()), stat.signature)
