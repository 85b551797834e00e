#!/usr/bin/env python3
"""Reads a checkpoint's weights with h5py.

h5py_check.py TEST_PARALLEL
"""

import os
import subprocess
import sys
import tempfile

SKIPPED = 77  # ctest counts this exit code as a skipped test

try:
    import h5py
    import numpy
except ImportError as error:
    print(f"skipped: {error}")
    sys.exit(SKIPPED)

# Of tests/parallel/small_checkpoint.h, in its order.
TENSORS = {
    "optimizer/first_moment/layers.0.w": ("float32", (3, 2, 3, 4)),
    "optimizer/velocity/layers.0.w": ("float64", (2, 3, 5)),
    "weights/layers.0.w": ("float32", (5, 6)),
    "weights/norm": ("float64", (7,)),
}

with tempfile.TemporaryDirectory() as folder:
    subprocess.run(
        [sys.argv[1], "--gtest_filter=CheckpointFiles.AFolderIsLeftForOtherReaders", "--gtest_brief=1"],
        env=os.environ | {"PENTAFOLD_CHECKPOINT": folder},
        check=True,
    )
    with h5py.File(f"{folder}/checkpoint.h5") as checkpoint:
        weight = checkpoint["weights/layers.0.w"][:]
        assert weight[1, 2] == 3008.25, weight
        for number, (name, (dtype, shape)) in enumerate(TENSORS.items()):
            found = checkpoint[name]
            assert (found.dtype, found.shape) == (dtype, shape), (name, found)
            elements = numpy.arange(numpy.prod(shape)).reshape(shape)
            assert (found[:] == 1000 * (number + 1) + elements + 0.25).all(), name
        assert checkpoint.attrs["step"] == 50
        assert checkpoint["config"].asstr()[()] == "run:\n  name: größe\n"
        assert list(checkpoint["losses"]) == [5.5, 4.25]
        os.remove(f"{folder}/part-00001.h5")
    with h5py.File(f"{folder}/checkpoint.h5") as checkpoint:
        weight = checkpoint["weights/layers.0.w"][:]
        assert numpy.isnan(weight[0, 2:]).all() and weight[4, 0] == 3024.25, weight
print("h5py reads what was written")
