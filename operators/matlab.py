"""``.mat`` files, of MATLAB's version 7.3 (HDF5) too."""

from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["load_matlab"]


def load_matlab(path: Path) -> dict[str, Any]:
    """The variables by name: arrays as MATLAB has them, numbers, structs as dictionaries. Raises what the parsers raise."""
    from scipy.io import loadmat

    try:
        return {name: plain(value) for name, value in loadmat(path).items() if not name.startswith("__")}
    except NotImplementedError:  # version 7.3
        import h5py

        with h5py.File(path, "r") as file:
            return {name: plain(value) for name, value in file.items() if not name.startswith("#")}


def plain(value: Any) -> Any:
    """A struct as a dictionary; an array, whose axes HDF5 stores in reverse; a number of an array of one."""
    if hasattr(value, "items"):
        return {name: plain(part) for name, part in value.items()}
    array = value if isinstance(value, np.ndarray) else np.asarray(value).T
    if array.dtype.names and array.size == 1:
        return {name: plain(array[name].flat[0]) for name in array.dtype.names}
    return array.item() if array.size == 1 and array.dtype.kind in "fiu" else array
