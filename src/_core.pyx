# cython: language_level=3, cdivision=True
# cython: freethreading_compatible=True
"""The native engine and kernels: one extension module, in parts that build on those before them.

The structs that all parts share are in `run.pxd`, the tiles in `tiles.pxd`, which CMake makes from
`tiles.pxd.in` and `tiles/table.h`.
"""

include "runtime.pxi"
include "batch.pxi"
include "ops.pxi"
include "update.pxi"
include "step.pxi"
include "program.pxi"
include "inputs.pxi"
include "engine.pxi"
include "kernels.pxi"
