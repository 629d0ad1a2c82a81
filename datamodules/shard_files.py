"""Spans of bytes out of local shards, read without opening a file anew for each."""

import os
from collections import OrderedDict
from typing import Any

from datamodules.bad_sample import BadSample

MOST_BYTES = 1 << 28  # of one member of a sample


class ShardFiles:
    """Reads spans of local files; keeps the last few open. Every process opens its own."""

    def __init__(self, keep: int = 64):
        self.keep, self.open = keep, OrderedDict()

    def read(self, path: str, offset: int, size: int) -> bytes:
        """Exactly these bytes; BadSample when they are too many, or the file is gone or has become shorter."""
        if size > MOST_BYTES:
            raise BadSample("too_large", f"a file of {size} bytes, the limit is {MOST_BYTES}")
        try:
            if path not in self.open:
                self.open[path] = os.open(path, os.O_RDONLY)
                if len(self.open) > self.keep:
                    os.close(self.open.popitem(last=False)[1])
            self.open.move_to_end(path)
            content = os.pread(self.open[path], size, offset)
        except OSError as error:
            raise BadSample("unreadable", f"{error.strerror}") from error
        if len(content) < size:
            raise BadSample("damaged_tar", f"the file ends {size - len(content)} bytes too early")
        return content

    def __getstate__(self) -> dict[str, Any]:
        return {"keep": self.keep, "open": OrderedDict()}

    def __del__(self) -> None:
        for handle in self.open.values():
            os.close(handle)
