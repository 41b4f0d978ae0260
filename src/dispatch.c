/* The instruction sets of this build, and which of them the CPU and the operating system support. */
#include "dispatch.h"

#include <stdatomic.h>
#include <string.h>

#define DECLARE(isa) extern const tile_table tiles_##isa##_f32, tiles_##isa##_f64;
#ifdef BUILT_BASELINE
DECLARE(baseline)
#endif
#ifdef BUILT_NEON
DECLARE(neon)
#endif
#ifdef BUILT_AVX2
DECLARE(avx2)
#endif
#ifdef BUILT_AVX512
DECLARE(avx512)
#endif

typedef struct {
    const char *name;
    int (*runs)(void);
    const tile_table *f32, *f64;
} choice;

static int always(void) { return 1; }

#ifdef BUILT_AVX2
#include <cpuid.h>

/* Whether the operating system saves the registers of `mask` (XCR0 bits) and the CPU has FMA and the
   features in `leaf7_ebx` (bits of ebx of leaf 7). */
static int has(unsigned mask, unsigned leaf7_ebx) {
    unsigned a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d)) return 0;
    const unsigned osxsave = 1u << 27, avx = 1u << 28, fma = 1u << 12;
    if ((c & (osxsave | avx | fma)) != (osxsave | avx | fma)) return 0;
    unsigned low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    (void)high;
    if ((low & mask) != mask) return 0;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return 0;
    return (b & leaf7_ebx) == leaf7_ebx;
}

/* `has`, cached: the instruction is slow, in a virtual machine very slow. */
static int has_cached(_Atomic int *answer, unsigned mask, unsigned leaf7_ebx) {
    int known = atomic_load_explicit(answer, memory_order_relaxed);
    if (!known) {
        known = has(mask, leaf7_ebx) ? 1 : -1;
        atomic_store_explicit(answer, known, memory_order_relaxed);
    }
    return known > 0;
}

/* XCR0: SSE and AVX state. Leaf 7: AVX2. */
static int has_avx2(void) {
    static _Atomic int answer;
    return has_cached(&answer, 0x6, 1u << 5);
}
#endif

#ifdef BUILT_AVX512
/* XCR0: also opmask and both halves of ZMM. Leaf 7: AVX2, AVX-512 F, DQ, BW, VL. */
static int has_avx512(void) {
    static _Atomic int answer;
    return has_cached(&answer, 0xe6, 1u << 5 | 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31);
}
#endif

#define ROW(isa, runs) {#isa, runs, &tiles_##isa##_f32, &tiles_##isa##_f64},

static const choice choices[] = {
#ifdef BUILT_AVX512
    ROW(avx512, has_avx512)
#endif
#ifdef BUILT_AVX2
        ROW(avx2, has_avx2)
#endif
#ifdef BUILT_NEON
            ROW(neon, always)
#endif
#ifdef BUILT_BASELINE
                ROW(baseline, always)
#endif
                    {NULL, NULL, NULL, NULL}};

const char *bp_isa_name(int i) {
    for (const choice *c = choices; c->name; c++)
        if (c->runs() && i-- == 0) return c->name;
    return NULL;
}

const tile_table *bp_tiles(const char *isa, int item_size) {
    for (const choice *c = choices; c->name; c++)
        if (strcmp(c->name, isa) == 0 && c->runs()) return item_size == 8 ? c->f64 : c->f32;
    return NULL;
}

const char *bp_compiler(void) {
#if defined(__clang__)
    return "clang " __clang_version__;
#elif defined(__GNUC__)
    return "gcc " __VERSION__;
#else
    return "unknown";
#endif
}
