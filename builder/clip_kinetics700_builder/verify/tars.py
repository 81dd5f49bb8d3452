"""Gives the samples of one of our tars and checks every byte around them.

What the reader's strict parser makes of a sample is spelled again: the tar must hold these very
bytes, because the same plan gives the same bytes.
"""

import io
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa

from clip_kinetics700.features import META_TYPE, embeddings_array
from clip_kinetics700.remote import BUFFER_SIZE
from clip_kinetics700.schema import KEY_NAME, Sample, decode_sample, encode_sample
from clip_kinetics700.tars import BLOCK, Member, Stream, read_members
from clip_kinetics700_builder.assemble.rows import find_misfit
from clip_kinetics700_builder.assemble.tar import spell_end, spell_sample
from clip_kinetics700_builder.dataset.problems import DamagedFileError

# A batch of very long videos is closed early, so that memory stays bounded.
BYTES_PER_BATCH = 64 << 20
ROWS_PER_BATCH = 1000
EXTENSIONS = ("json", "npy", "txt")
# Bytes that are shown before and after the first one that differs.
SHOWN_BEFORE, SHOWN_AFTER = 20, 20


def read_tar(path: Path, *, first: int, n_samples: int, width: int) -> Iterator[pa.RecordBatch]:
    """Yield the samples of a tar, the first of which has that number, and where their arrays lie.

    Raises:
        DamagedFileError: a sample is not what it must be or not there, or something else is.
    """
    with io.BufferedReader(io.FileIO(path), BUFFER_SIZE) as file:
        members = read_strictly(file)
        samples: list[Sample] = []
        places: list[tuple[int, int]] = []
        begin = offset = 0
        for number in range(first, first + n_samples):
            key = KEY_NAME.format(number)
            found = {name: require_member(members, f"{key}.{name}") for name in EXTENSIONS}
            # The parser stands behind the padding of the last member.
            n_bytes = file.tell() - offset
            file.seek(offset)
            data = file.read(n_bytes)
            samples.append(read_sample(key, found, width, data))
            places.append((found["npy"].offset, len(found["npy"].data)))
            offset += n_bytes
            if len(samples) == ROWS_PER_BATCH or offset - begin >= BYTES_PER_BATCH:
                yield make_batch(samples, places, width)
                samples, places, begin = [], [], offset
        if samples:
            yield make_batch(samples, places, width)
        if next(members, None) is not None:
            raise DamagedFileError(f"holds more than its samples from byte {offset} on")
        file.seek(offset)
        end = spell_end(offset)
        if file.read(len(end) + 1) != end:
            raise DamagedFileError(f"does not end as a tar of ours does after byte {offset}")


def make_batch(
    samples: Sequence[Sample], places: Sequence[tuple[int, int]], width: int
) -> pa.RecordBatch:
    """Return samples as rows."""
    columns = {
        "embeddings": embeddings_array([sample.embeddings for sample in samples], width),
        "caption": pa.array([sample.caption for sample in samples], pa.string()),
        "meta": pa.array([sample.meta for sample in samples], META_TYPE),
        "npy_offset": pa.array([offset for offset, _ in places], pa.int64()),
        "npy_nbytes": pa.array([nbytes for _, nbytes in places], pa.int64()),
    }
    return pa.RecordBatch.from_pydict(columns)


def read_strictly(stream: Stream) -> Iterator[Member]:
    """Yield the members of a tar; what the strict parser refuses is a DamagedFileError."""
    try:
        yield from read_members(stream)
    except ValueError as error:
        raise DamagedFileError(str(error)) from error


def require_member(members: Iterator[Member], name: str) -> Member:
    """Return the next member, which must have this name."""
    member = next(members, None)
    if member is None:
        raise DamagedFileError(f"ends before {name}")
    if member.name != name:
        at = member.offset - BLOCK
        raise DamagedFileError(f"member {member.name!r} at byte {at}, where {name} belongs")
    return member


def read_sample(key: str, members: dict[str, Member], width: int, found: bytes) -> Sample:
    """Return the sample of members by extension, `found` with their headers and padding.

    Raises:
        DamagedFileError: the sample cannot be read, is none of ours, or is not spelled as ours are.
    """
    try:
        sample = decode_sample(key, {name: member.data for name, member in members.items()})
        fault = find_misfit(sample)
        if sample.embeddings.dtype != "<f2" or sample.embeddings.shape[1] != width:
            fault = (
                f"the npy member has dtype {sample.embeddings.dtype.str} and shape "
                f"{sample.embeddings.shape}; ours has dtype <f2 and shape (1 or more, {width})"
            )
        expected = b"" if fault else spell_sample(sample).data
    except ValueError as error:
        reason = str(error).removeprefix(f"sample {key}: ")
        raise DamagedFileError(f"sample {key}: {reason}") from error
    if fault is None and found != expected:
        fault = describe_difference(sample, members, found)
    if fault is not None:
        raise DamagedFileError(f"sample {key}: {fault}")
    return sample


def describe_difference(sample: Sample, members: dict[str, Member], found: bytes) -> str:
    """Return in what a sample is not spelled as ours: in a content, or else in what is around."""
    for extension, ours in encode_sample(sample):
        content = bytes(members[extension].data)
        if content != ours:
            return f"the {extension} member {show_difference(content, ours)}"
    return f"with its headers it {show_difference(found, spell_sample(sample).data)}"


def show_difference(found: bytes, ours: bytes) -> str:
    """Return the bytes around the first one that differs."""
    pairs = enumerate(zip(found, ours, strict=False))
    at = next((n for n, (a, b) in pairs if a != b), min(len(found), len(ours)))
    span = slice(max(at - SHOWN_BEFORE, 0), at + SHOWN_AFTER)
    return f"holds {found[span]!r} at byte {span.start}, where ours holds {ours[span]!r}"
