/* lib/compute/cpu/outer.h -- a block of a weight gradient: transpose(A) B over the rows (pixels, tiles) of
 * two operands, from packed copies.
 *
 * In place, rows a power of two of channels apart share a few cache sets, and every register tile would read
 * them from far. So a block of B is packed into panels of columns, one of A into strips of a tile's rows, and
 * tiles read both from end to end, a panel staying in the first-level cache for all strips. */
#ifndef HR_COMPUTE_CPU_OUTER_H
#define HR_COMPUTE_CPU_OUTER_H

#include "compute/cpu/kernels.h"

enum { HR_OUTER_DEPTH = 256 }; /* rows that are summed at a time */

/* Columns of a panel for so many columns. */
int hr_panel_width(const hr_kernels *k, int columns);
/* Floats that hr_outer_block packs so many columns of A into. */
size_t hr_outer_room(const hr_kernels *k, int columns);
/* c (i1-i0, columns), ldc apart, (+)= transpose(columns [i0,i1) of the np <= HR_OUTER_DEPTH rows under ptr)
 * times the columns of b, ldb apart, or of their panels (the kernel `panels` makes them) when panels is not
 * NULL. strips: room to pack A in, or NULL. */
void hr_outer_block(const hr_kernels *k, const float **ptr, int np, int i0, int i1, const float *b,
                    size_t ldb, const float *panels, int columns, float *strips, float *c, size_t ldc,
                    bool add);

#endif
