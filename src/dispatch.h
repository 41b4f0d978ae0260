/* The table of tiles for this CPU. */
#ifndef BPFAST_DISPATCH_H
#define BPFAST_DISPATCH_H

#include "tiles/tiles.h"

/* The name of the i-th instruction set of this build that this CPU supports, best first, or NULL. */
const char *bp_isa_name(int i);

/* The table of an instruction set and dtype, or NULL if this build or this CPU lacks it. */
const tile_table *bp_tiles(const char *isa, int item_size);

/* The name and version of the compiler. */
const char *bp_compiler(void);

#endif
