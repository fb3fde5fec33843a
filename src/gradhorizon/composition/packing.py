"""Configurations of this process's own, kept as bytes in its memory: to unpack one takes a tenth of a deep copy.

What is packed here is unpacked here, and comes from no file: nothing else in the project reads a pickle.
"""

from __future__ import annotations

import pickle
import zlib
from typing import Generic, TypeVar, cast

_T = TypeVar("_T")


class Packed(Generic[_T]):
    """An object as it was when it was packed.

    Args:
        content: what is packed.
        is_small: whether memory counts for more than time.

    Raises:
        Exception: it cannot be packed, such as a class that cannot be found by its name.
    """

    def __init__(self, content: _T, *, is_small: bool = False) -> None:
        whole = pickle.dumps(content, pickle.HIGHEST_PROTOCOL)
        pickle.loads(whole)  # noqa: S301, as it was written a line above
        self._is_small = is_small
        self._bytes = zlib.compress(whole, 1) if is_small else whole

    def opened(self) -> _T:
        """A copy of it that is nobody else's."""
        whole = zlib.decompress(self._bytes) if self._is_small else self._bytes
        return cast("_T", pickle.loads(whole))  # noqa: S301, packed by this process
