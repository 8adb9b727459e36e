/* lib/model/stats.c -- what the values of a model's tensors are like: zeros, range, mean, deviation, and how
 * many are not finite.
 *
 * Sums are in double, in the order of the values; the deviation is the square root of the mean squared
 * distance from the mean (all values are there: nothing is estimated). Values that are not finite are counted
 * and stay out of all other numbers. */
#include "model/model.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* IEEE 754 binary16: 1 sign, 5 exponent (bias 15), 10 fraction bits. */
static double from_half(uint16_t h)
{
    int exponent = h >> 10 & 31, fraction = h & 1023;
    double v = exponent == 31 ? (fraction ? (double)NAN : (double)INFINITY)
               : exponent     ? ldexp(1024 + fraction, exponent - 25)
                              : ldexp(fraction, -24);
    return h >> 15 ? -v : v;
}

/* The upper half of a float. */
static double from_bfloat(uint16_t b)
{
    uint32_t bits = (uint32_t)b << 16;
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

static double value_at(const hr_tensor *t, int64_t i)
{
    switch (t->dtype) {
    case HR_F32:
        return ((const float *)t->data)[i];
    case HR_F64:
        return ((const double *)t->data)[i];
    case HR_F16:
        return from_half(((const uint16_t *)t->data)[i]);
    case HR_BF16:
        return from_bfloat(((const uint16_t *)t->data)[i]);
    case HR_I64:
        return (double)((const int64_t *)t->data)[i];
    case HR_I32:
        return ((const int32_t *)t->data)[i];
    default:
        return ((const uint8_t *)t->data)[i];
    }
}

hr_stats hr_stats_of(const hr_tensor *t)
{
    hr_stats s = {.n = hr_tensor_count(t), .first_bad = -1};
    double sum = 0, squares = 0;
    int64_t finite = 0;
    for (int64_t i = 0; i < s.n; i++) {
        double v = value_at(t, i);
        if (!isfinite(v)) {
            s.first_bad = s.bad++ ? s.first_bad : i;
            continue;
        }
        s.zeros += v == 0;
        s.min = finite && s.min < v ? s.min : v;
        s.max = finite && s.max > v ? s.max : v;
        sum += v;
        finite++;
    }
    s.mean = finite ? sum / (double)finite : 0;
    for (int64_t i = 0; i < s.n; i++) {
        double d = value_at(t, i) - s.mean;
        squares += isfinite(d) ? d * d : 0;
    }
    s.std = finite ? sqrt(squares / (double)finite) : 0;
    return s;
}

/* ---- the JSON document ------------------------------------------------------------------------------- */

json_t *hr_stats_json(const hr_model *m)
{
    json_t *list = json_array();
    for (int i = 0; i < m->ntensors; i++) {
        const hr_tensor *x = &m->tensors[i];
        hr_stats s = hr_stats_of(x);
        json_t *shape = json_array();
        for (int d = 0; d < x->ndim; d++)
            json_array_append_new(shape, json_integer(x->shape[d]));
        json_array_append_new(list, json_pack("{s:s, s:s, s:o, s:I, s:I, s:I, s:f, s:f, s:f, s:f}", "name",
                                              x->name, "dtype", hr_dtype_names[x->dtype], "shape", shape,
                                              "values", (json_int_t)s.n, "zeros", (json_int_t)s.zeros,
                                              "not_finite", (json_int_t)s.bad, "min", s.min, "max", s.max,
                                              "mean", s.mean, "std", s.std));
    }
    return json_pack("{s:s, s:o}", "arch", m->arch, "tensors", list);
}
