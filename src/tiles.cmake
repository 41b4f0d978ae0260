# The tiles, one object library for each instruction set and dtype, and the choice among them:
# TILE_OBJECTS and the target `dispatch`. Also used by tests/native/tiles, for other architectures.
#
# The flags decide speed and results, so they do not depend on the build type. -O3: the register tiles
# need their loops unrolled. No contraction: a product and a sum are fused only by v_fma of simd.h. No
# errno, no traps: comparisons may become selects. No flag reorders a sum or is passed to the linker.
set(TILE_FLAGS -O3 -ffp-contract=off -fno-math-errno -fno-trapping-math -Wall -Wextra)

set(ISAS baseline)
set(FLAGS_baseline "")
if(CMAKE_SYSTEM_PROCESSOR MATCHES "aarch64|arm64" AND CMAKE_SIZEOF_VOID_P EQUAL 8)
  # Every 64-bit ARM has NEON.
  set(ISAS neon)
  set(FLAGS_neon "")
elseif(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64|amd64" AND CMAKE_SIZEOF_VOID_P EQUAL 8)
  list(APPEND ISAS avx2 avx512)
  set(FLAGS_avx2 -mavx2 -mfma)
  set(FLAGS_avx512 -mavx512f -mavx512vl -mavx512bw -mavx512dq -mavx2 -mfma)
endif()

if(ONLY_ISAS) # for tests/native/tiles
  set(ISAS ${ONLY_ISAS})
endif()

set(TILE_OBJECTS "")
set(BUILT "")
foreach(isa IN LISTS ISAS)
  foreach(double 0 1)
    set(name tiles_${isa}_${double})
    add_library(${name} OBJECT ${CMAKE_CURRENT_LIST_DIR}/tiles/tiles.c)
    target_compile_definitions(${name} PRIVATE ISA=${isa} REAL_IS_DOUBLE=${double})
    target_compile_options(${name} PRIVATE ${TILE_FLAGS} ${FLAGS_${isa}})
    list(APPEND TILE_OBJECTS $<TARGET_OBJECTS:${name}>)
  endforeach()
  string(TOUPPER ${isa} upper)
  list(APPEND BUILT BUILT_${upper})
endforeach()

add_library(dispatch OBJECT ${CMAKE_CURRENT_LIST_DIR}/dispatch.c)
target_compile_definitions(dispatch PRIVATE ${BUILT})
