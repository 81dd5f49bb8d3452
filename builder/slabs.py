"""Frames in one process in, the same frames in another out: their pixels through shared memory.

Through a pipe alone the pixels of a clip would be copied four times, 64 KB at a time.
"""

import ctypes
import math
from dataclasses import replace
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnContext

import numpy as np

from builder.types import Failure, Frames, UInt8Array


class Slab:
    """Memory that a worker and its parent share; it has no name and ends with the two."""

    def __init__(self, context: SpawnContext, n_bytes: int) -> None:
        """Allocate room for the pixels of one result; it can be given to processes that start."""
        self._memory = context.RawArray(ctypes.c_uint8, n_bytes)

    def send(self, connection: Connection, result: Frames | Failure | str) -> None:
        """Send a result; its pixels stay in the slab until the next one."""
        if isinstance(result, Frames) and 0 < result.pixels.nbytes <= len(self._memory):
            self._view(result.pixels.shape)[:] = result.pixels
            result = replace(result, pixels=result.pixels[:0])
        connection.send(result)

    def receive(self, connection: Connection) -> Frames | Failure | str:
        """Receive a result, its pixels copied out of the slab.

        Raises:
            EOFError, OSError: the other side has ended.
        """
        result: Frames | Failure | str = connection.recv()
        if isinstance(result, Frames) and len(result.pixels) < len(result.timestamps):
            shape = (len(result.timestamps), *result.pixels.shape[1:])
            return replace(result, pixels=self._view(shape).copy())
        return result

    def _view(self, shape: tuple[int, ...]) -> UInt8Array:
        return np.ctypeslib.as_array(self._memory)[: math.prod(shape)].reshape(shape)
