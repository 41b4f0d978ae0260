/* Which table of tiles this CPU gets. */
#ifndef BPFAST_DISPATCH_H
#define BPFAST_DISPATCH_H

#include "tiles/tiles.h"

/* The instruction sets of this build that this CPU runs, best first: name of the i-th, or NULL. */
const char *bp_isa_name(int i);

/* The tables of an instruction set, NULL if this build lacks it or this CPU can't run it. */
const tile_table *bp_tiles(const char *isa, int item_size);

/* The compiler that built this. */
const char *bp_compiler(void);

#endif
