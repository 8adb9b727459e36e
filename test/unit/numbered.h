/* test/unit/numbered.h -- a data set whose images tell where they belong, for test_data.c and test_batch.c.
 */
#ifndef HR_TEST_NUMBERED_H
#define HR_TEST_NUMBERED_H

#include "unit.h"

#include "data/data.h"

#include <stdlib.h>

/* n images of c x h x w with pixels and labels that tell where they belong; label i % classes */
static inline hr_dataset numbered(uint32_t n, int c, int h, int w, int classes)
{
    hr_dataset ds = {.n = n, .c = c, .h = h, .w = w, .classes = classes};
    size_t bytes = (size_t)c * (size_t)h * (size_t)w;
    ds.pixels = hr_xmalloc(n * bytes);
    ds.labels = hr_xmalloc(n * sizeof *ds.labels);
    ds.index = hr_xmalloc(n * sizeof *ds.index);
    for (uint32_t i = 0; i < n; i++) {
        for (size_t k = 0; k < bytes; k++)
            ds.pixels[i * bytes + k] = (uint8_t)(i * 31 + k * 7);
        ds.labels[i] = (int32_t)(i % (uint32_t)classes);
        ds.index[i] = i;
    }
    return ds;
}

#endif
