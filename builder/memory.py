"""An error in, whether it says that memory is short out: torch and FFmpeg have no class for it."""

# How torch's allocators, FFmpeg and the C++ below them put it.
MEMORY_WORDS = (
    "allocate memory",
    "not enough memory",
    "out of memory",
    "bad_alloc",
    "DefaultCPUAllocator",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Say whether an error means that memory is short."""
    words = str(error)
    return isinstance(error, MemoryError) or any(word in words for word in MEMORY_WORDS)
