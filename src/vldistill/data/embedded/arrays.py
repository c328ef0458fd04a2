"""Arrays of vectors in files of .npy, .npz, .safetensors and parquet, mapped where the file allows it."""

from __future__ import annotations

import json
import struct
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

from vldistill.data.containers import readable, require_parquet
from vldistill.errors import DataError
from vldistill.storage.files import human_bytes

NUMPY, ZIPPED, TENSORS, PARQUET = ".npy", ".npz", ".safetensors", ".parquet"
KINDS = {"F16": "<f2", "F32": "<f4", "F64": "<f8"}  # of safetensors
WHOLE = (ZIPPED, TENSORS, PARQUET)  # files that hold both sides
IN_MEMORY_BYTES = 2_000_000_000  # of arrays that cannot be mapped, all together
HEADER_BYTES = 100_000_000  # of the longest header of safetensors
WIDEST = 1_000_000  # numbers of a vector


@contextmanager
def _read(path: Path) -> Iterator[None]:
    """Turn whatever a broken file makes numpy, zipfile or json raise into DataError."""
    try:
        yield
    except DataError:
        raise
    except Exception as error:  # numpy evaluates headers as expressions, which can fail in any way
        reason = " ".join((getattr(error, "strerror", None) or str(error) or type(error).__name__).split())[:160]
        raise DataError(f"{path} cannot be read ({reason}). Copy it again, or take it out of the source.") from None


def check_array(array: np.ndarray, where: str) -> np.ndarray:
    """Refuse what is no (rows, width) array of real numbers. Raises DataError, naming ``where`` it is."""
    if array.ndim != 2 or array.dtype.kind != "f" or array.dtype.itemsize > 8:
        raise DataError(
            f"{where} holds {array.dtype} {array.shape}; expected vectors, (rows, width) of float16 or float32. Name "
            f"another array: ?image=NAME&text=NAME."
        )
    if not 1 <= array.shape[1] <= WIDEST:
        raise DataError(f"{where} has vectors of {array.shape[1]:,} numbers; expected 1 to {WIDEST:,}.")
    return array


def is_vectors(shape: Sequence[int], kind: str) -> bool:
    """Whether an array of this shape and kind of numbers may hold vectors."""
    return len(shape) == 2 and kind == "f" and shape[1] > 1


def open_npy(path: Path) -> np.ndarray:
    """The array of a .npy file, mapped. Raises DataError."""
    with _read(path):
        array = np.lib.format.open_memmap(path, mode="r")
        end = array.offset + array.nbytes
        if path.stat().st_size < end:
            raise ValueError(f"it has {path.stat().st_size:,} bytes; expected {end:,}")
    return check_array(array, path.name)


def npz_arrays(path: Path) -> dict[str, tuple[tuple[int, ...], str]]:
    """The arrays of a .npz file: name -> shape and kind of numbers. Raises DataError."""
    found = {}
    with _read(path), zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            if name.endswith(NUMPY):
                with archive.open(name) as member:
                    shape, _, dtype = _header(member)
                found[name.removesuffix(NUMPY)] = (shape, dtype.kind)
    return found


def open_npz(path: Path, name: str) -> np.ndarray:
    """One array of a .npz file: mapped where it is not compressed, else read. Raises DataError."""
    with _read(path), zipfile.ZipFile(path) as archive:
        about = archive.getinfo(f"{name}{NUMPY}")
        if about.compress_type != zipfile.ZIP_STORED:
            _check_fits(about.file_size, path, "is compressed: save its arrays as .npy files with numpy.save")
            with archive.open(about) as member:
                array = np.lib.format.read_array(member, allow_pickle=False)
            return check_array(array, f"{path.name}, {name}")
        with path.open("rb") as handle:
            handle.seek(about.header_offset)
            header = handle.read(30)
            if header[:4] != b"PK\3\4" or len(header) < 30:
                raise ValueError("its directory does not fit its members")
            handle.seek(sum(struct.unpack("<HH", header[26:30])), 1)
            shape, fortran, dtype = _header(handle)
            start = handle.tell()
        return check_array(_mapped(path, dtype, start, shape, fortran), f"{path.name}, {name}")


def _header(handle: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, whether the columns come first, and numbers of an array whose file begins here."""
    read = np.lib.format.read_array_header_1_0 if np.lib.format.read_magic(handle) == (1, 0) else None
    return (read or np.lib.format.read_array_header_2_0)(handle)


def _mapped(path: Path, dtype: np.dtype, start: int, shape: Sequence[int], fortran: bool = False) -> np.ndarray:
    """An array of a part of a file. Raises ValueError where the file is too short, or it holds objects."""
    if dtype.hasobject or any(size < 0 for size in shape):
        raise ValueError(f"values of {dtype} {tuple(shape)}; expected numbers")
    end = start + int(np.prod(np.array(shape, object), initial=1)) * dtype.itemsize
    if path.stat().st_size < end:
        raise ValueError(f"it has {path.stat().st_size:,} bytes; expected {end:,}")
    if 0 in shape:
        return np.zeros(shape, dtype)
    return np.memmap(path, dtype, "r", start, tuple(shape), "F" if fortran else "C")


def tensor_header(path: Path) -> tuple[dict[str, Any], int]:
    """The tensors of a .safetensors file by name, and where their bytes begin. Raises DataError."""
    with _read(path), path.open("rb") as handle:
        raw = handle.read(8)
        length = int.from_bytes(raw, "little")
        if len(raw) < 8 or length > min(HEADER_BYTES, path.stat().st_size - 8):
            raise ValueError("it does not begin with a header of safetensors")
        header = json.loads(handle.read(length))
        if not isinstance(header, dict):
            raise ValueError("its header is no json object")
        found = {name: about for name, about in header.items() if name != "__metadata__"}
        for name, about in found.items():
            first, last = about["data_offsets"]
            fine = isinstance(about["dtype"], str) and 0 <= first <= last <= path.stat().st_size - 8 - length
            if not fine or not all(isinstance(size, int) and size >= 0 for size in about["shape"]):
                raise ValueError(f"its header says {str(about)[:80]} of {name[:40]}")
    return found, 8 + length


def open_tensor(path: Path, name: str) -> np.ndarray:
    """One tensor of a .safetensors file, mapped. Raises DataError."""
    header, start = tensor_header(path)
    about = header[name]
    if about["dtype"] not in KINDS:
        raise DataError(
            f"{path.name}, {name} holds {about['dtype']} {tuple(about['shape'])}; expected vectors of F16 or F32. "
            f"Convert it, e.g. tensor.half()."
        )
    with _read(path):
        array = _mapped(path, np.dtype(KINDS[about["dtype"]]), start + about["data_offsets"][0], about["shape"])
    return check_array(array, f"{path.name}, {name}")


def parquet_columns(path: Path) -> dict[str, bool]:
    """The columns of a parquet file, and whether each holds lists of numbers. Raises DataError."""
    parquet = require_parquet()
    with readable(path):
        return vector_columns(parquet.read_schema(path))


def vector_columns(schema: Any) -> dict[str, bool]:
    """The columns of an Arrow schema, and whether each holds lists of real numbers."""
    import pyarrow.types as types

    return {
        field.name: hasattr(field.type, "value_type") and types.is_floating(field.type.value_type) for field in schema
    }


def text_columns(schema: Any) -> list[str]:
    """The columns of an Arrow schema that may hold names and texts: no vectors, pictures or other bytes."""
    import pyarrow.types as types

    def inner(kind: Any) -> Any:
        return inner(kind.value_type) if hasattr(kind, "value_type") else kind

    def fine(kind: Any) -> bool:
        inside = inner(kind)
        listed = inside is not kind and not types.is_dictionary(kind)
        if types.is_struct(inside):
            return "bytes" not in {field.name for field in inside}
        return not (types.is_binary(inside) or types.is_large_binary(inside) or (listed and types.is_primitive(inside)))

    return [field.name for field in schema if fine(field.type)]


def open_parquet(path: Path, name: str) -> np.ndarray:
    """A column of lists of a parquet file, which is read: parquet cannot be mapped. Raises DataError."""
    parquet = require_parquet()
    with readable(path), parquet.ParquetFile(path) as file:
        size = sum(
            group.column(index).total_uncompressed_size
            for group in map(file.metadata.row_group, range(file.num_row_groups))
            for index in range(group.num_columns)
            if group.column(index).path_in_schema.partition(".")[0] == name
        )
        _check_fits(size, path, "is parquet, which cannot be mapped: save its column as a .npy file with numpy.save")
        column = file.read([name]).column(name)
    parts = [array_of(chunk, f"{path.name}, {name}") for chunk in column.chunks]
    if not parts:
        raise DataError(f"{path.name} holds no rows.")
    if len({part.shape[1] for part in parts}) > 1:
        raise DataError(f"{path.name}, {name} holds vectors of several widths. Make them equal.")
    return np.concatenate(parts)


def array_of(chunk: Any, where: str) -> np.ndarray:
    """The lists of an Arrow array as (rows, width), without a copy where none is missing. Raises DataError.

    A missing list becomes a row of NaN, which is counted where vectors are checked.
    """
    import pyarrow.compute as compute

    lengths: Any = compute.list_value_length(chunk)  # pyright: ignore[reportAttributeAccessIssue]
    widths = np.unique(lengths.drop_null().to_numpy(zero_copy_only=False))
    if len(widths) != 1:
        rows = lengths.to_pylist()
        odd = next((row for row, width in enumerate(rows) if width not in (None, rows[0])), 0)
        found = f"row {odd:,} has {rows[odd]} numbers, row 0 {rows[0]}" if len(widths) else "no row has any"
        raise DataError(f"{where} holds lists of several lengths: {found}. Expected vectors of one width.")
    width = int(widths[0])
    filled = chunk.drop_null() if chunk.null_count else chunk
    inside = filled.flatten()
    numbers = inside.to_numpy(zero_copy_only=inside.null_count == 0).reshape(-1, width)
    if chunk.null_count:
        whole = np.full((len(chunk), width), np.nan, numbers.dtype)
        whole[np.asarray(chunk.is_valid())] = numbers
        numbers = whole
    return check_array(numbers, where)


def _check_fits(size: int, path: Path, remedy: str) -> None:
    if size > IN_MEMORY_BYTES:
        raise DataError(
            f"{path.name} would take {human_bytes(size)} of memory; expected {human_bytes(IN_MEMORY_BYTES)} or less. "
            f"It {remedy}."
        )
