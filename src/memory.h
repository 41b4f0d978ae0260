/* Large pages for large blocks: each row of a matrix of 4096 columns is on another small page. */
#ifndef BPFAST_MEMORY_H
#define BPFAST_MEMORY_H

#include <stddef.h>
#include <stdint.h>

#ifdef __linux__
#include <sys/mman.h>
#endif

/* Bytes from which large pages are requested; one has 2 MiB on most CPUs. */
#define LARGE_BLOCK ((size_t)4 << 20)

/* Advise the system to back `size` untouched bytes at `block` with large pages. If it refuses,
   nothing changes. */
static inline void large_pages(void *block, size_t size) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    const uintptr_t page = 4096, start = ((uintptr_t)block + page - 1) / page * page;
    const uintptr_t end = ((uintptr_t)block + size) / page * page;
    if (size >= LARGE_BLOCK && end > start)
        (void)madvise((void *)start, end - start, MADV_HUGEPAGE);
#else
    (void)block;
    (void)size;
#endif
}

#endif
