/* lib/compute/cpu/outer.c -- packing, and the loops over register tiles (outer.h). */
#include "compute/cpu/outer.h"

int hr_panel_width(const hr_kernels *k, int columns)
{
    return columns > k->vw ? 2 * k->vw : k->vw;
}

/* Floats from one strip to the next: not a power of two, or all strips would share a few cache sets. */
static size_t strip_step(const hr_kernels *k)
{
    return (size_t)HR_OUTER_DEPTH * (size_t)k->mo + 16;
}

size_t hr_outer_room(const hr_kernels *k, int columns)
{
    return (size_t)((columns + k->mo - 1) / k->mo) * strip_step(k);
}

void hr_outer_block(const hr_kernels *k, const float **ptr, int np, int i0, int i1, const float *b,
                    size_t ldb, const float *panels, int columns, float *strips, float *c, size_t ldc,
                    bool add)
{
    int panel = hr_panel_width(k, columns);
    const float *packed[HR_OUTER_DEPTH], **row = ptr;
    size_t first = (size_t)i0, step = (size_t)k->mo;
    if (strips) {
        k->strips(i1 - i0, np, ptr, first, strips, strip_step(k));
        for (int p = 0; p < np; p++)
            packed[p] = strips + (size_t)p * step;
        row = packed;
        first = 0;
        step = strip_step(k);
    }
    for (int j = 0; j < columns; j += panel) {
        const float *bj = panels ? panels + (size_t)j * (size_t)np : b + j;
        for (int i = 0; i < i1 - i0; i += k->mo)
            k->outer(i1 - i0 - i < k->mo ? i1 - i0 - i : k->mo, columns - j < panel ? columns - j : panel,
                     panel, np, row, first + (size_t)(i / k->mo) * step, bj, panels ? (size_t)panel : ldb,
                     c + (size_t)i * ldc + j, ldc, add);
    }
}
