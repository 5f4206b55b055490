"""The decode worker's process: ``python -m framecache.extract.decode_worker FD``.

It takes clip after clip from the socket FD and answers each with its blocks of frames, then with how it went.
"""

from __future__ import annotations

import signal
import sys
from multiprocessing.connection import Connection

from framecache.extract.video import DecodeStats, VideoError, decode


def _work(connection: Connection) -> None:
    """The worker's side: clips in, blocks and endings out, until the other side hangs up."""
    while True:
        clip = connection.recv()
        stats = DecodeStats()
        reason = None
        try:
            for block in decode(clip, stats):
                connection.send(block)
        except VideoError as error:
            reason = str(error)
        except (EOFError, BrokenPipeError, ConnectionResetError):
            raise
        except Exception as error:  # a decoder's surprise costs this clip and no other
            reason = f"cannot be decoded: {type(error).__name__}: {error}"
        connection.send((stats, reason))


def _main() -> None:
    # Ctrl-C is for the parent, which seals what is computed and then ends its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with Connection(int(sys.argv[1])) as connection:
        try:
            _work(connection)
        except (EOFError, BrokenPipeError, ConnectionResetError):
            return


if __name__ == "__main__":
    _main()
