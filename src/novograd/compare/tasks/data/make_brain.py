"""Remake ``brain.npz`` byte for byte from the nilearn 0.14.1 wheel.

Usage::

    pip download --no-deps nilearn==0.14.1
    python make_brain.py nilearn-0.14.1-py3-none-any.whl brain.npz

The wheel contains the MNI152 T1 template and its grey- and white-matter probability maps: 8-bit,
1 mm voxels, skull removed. The template is mirror-symmetric to the last bit, so only the left half
is kept, with the middle slice. The half is cut to a box whose in-plane sides are multiples of four,
so that a U-Net that halves the image twice accepts whole slices.

Output, both arrays uint8 of shape ``(138, 80, 192)``, axes z (upwards), x (to the middle), y (to
the front), 1 mm per voxel:

* ``t1``: intensity, 0 outside the brain.
* ``labels``: 0 background, 1 cerebrospinal fluid (CSF), 2 grey matter (GM), 3 white matter (WM).
  Inside the brain the label is the most probable tissue. The probability of CSF is one minus the
  probabilities of GM and WM.

This program writes the archive itself, because ``numpy.savez_compressed`` stores the time of
writing and compresses with zlib, whose output differs between versions and replacements of zlib.
bzip2 has had one implementation with stable output since 1.0. The program sets the other fields of
the archive to fixed values. ``numpy.load`` reads the file as usual.

Needs NumPy and the standard library.
"""

import argparse
import gzip
import io
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

SOURCE = "nilearn/datasets/data/mni_icbm152_{}_tal_nlin_sym_09a_converted.nii.gz"
BOX = (slice(19, 99), slice(22, 214), slice(12, 150))  # x, y, z of the template, middle at x = 98


def read_nifti(packed: bytes) -> NDArray[np.uint8]:
    """Reads a gzipped single-file NIfTI-1 volume of unscaled 8-bit voxels.

    Args:
        packed: The content of a ``.nii.gz`` file.

    Returns:
        The voxels, shape ``(x, y, z)``.

    Raises:
        ValueError: If the file is not such a volume.
    """
    raw = gzip.decompress(packed)
    header_size = struct.unpack_from("<i", raw, 0)[0]
    rank, *shape = struct.unpack_from("<4h", raw, 40)
    datatype, bits = struct.unpack_from("<2h", raw, 70)
    voxels_at, slope, intercept = struct.unpack_from("<3f", raw, 108)
    if header_size != 348 or raw[344:348] != b"n+1\0":
        raise ValueError("not a little-endian single-file NIfTI-1 image")
    if rank != 3 or (datatype, bits) != (2, 8) or (slope, intercept) not in ((1, 0), (0, 0)):
        raise ValueError(
            f"expected 3 axes of unscaled uint8 (datatype 2, 8 bits), got {rank} axes of datatype "
            f"{datatype}, {bits} bits, slope {slope}, intercept {intercept}"
        )
    voxels = np.frombuffer(raw, np.uint8, offset=int(voxels_at))
    return voxels.reshape(shape, order="F")


def brain(wheel: Path) -> dict[str, NDArray[np.uint8]]:
    """Cuts the half-brain and its labels out of the template.

    Args:
        wheel: The nilearn 0.14.1 wheel.

    Returns:
        ``t1`` and ``labels`` as described at the top of this file.
    """
    with zipfile.ZipFile(wheel) as archive:
        t1, gm, wm = (
            read_nifti(archive.read(SOURCE.format(name)))[BOX].transpose(2, 0, 1)
            for name in ("t1", "gm", "wm")
        )
    grey, white = gm.astype(np.int16), wm.astype(np.int16)  # probability times 255
    tissue = 1 + np.argmax([255 - grey - white, grey, white], axis=0)
    return {"t1": t1, "labels": np.where(t1 > 0, tissue, 0).astype(np.uint8)}


def write_npz(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Writes arrays as an ``.npz`` file whose bytes depend only on the arrays.

    Args:
        path: The file to write; an existing file is replaced.
        arrays: The arrays by name.
    """
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in arrays.items():
            content = io.BytesIO()
            np.lib.format.write_array(content, np.ascontiguousarray(array), version=(1, 0))
            member = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            member.create_system = 3  # the default depends on the machine
            member.external_attr = 0o644 << 16
            archive.writestr(member, content.getvalue(), zipfile.ZIP_BZIP2, compresslevel=9)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Remake brain.npz from the nilearn 0.14.1 wheel.")
    parser.add_argument("wheel", type=Path, metavar="NILEARN_WHEEL")
    parser.add_argument("output", type=Path, metavar="OUTPUT")
    arguments = parser.parse_args()
    write_npz(arguments.output, brain(arguments.wheel))
