/* lib/compute/loss.c -- losses on logits and sums in a fixed order. */
#include "compute/compute.h"

#include <math.h>

void hr_loss_ce(const float *z, const int32_t *y, int n0, int n1, int classes, float scale, double *loss,
                float *dz)
{
    for (int i = n0; i < n1; i++) {
        const float *zi = z + (size_t)i * (size_t)classes;
        float top = zi[0];
        for (int c = 1; c < classes; c++)
            top = zi[c] > top ? zi[c] : top;
        double sum = 0;
        for (int c = 0; c < classes; c++)
            sum += exp((double)zi[c] - (double)top);
        if (loss)
            loss[i] = log(sum) + (double)top - (double)zi[y[i]];
        if (!dz)
            continue;
        float *d = dz + (size_t)i * (size_t)classes;
        for (int c = 0; c < classes; c++)
            d[c] = scale * (float)(exp((double)zi[c] - (double)top) / sum - (c == y[i]));
    }
}

void hr_loss_margin(const float *z, const int32_t *y, int n0, int n1, int classes, float scale, double *loss,
                    float *dz)
{
    const float confidence = 50;
    for (int i = n0; i < n1; i++) {
        const float *zi = z + (size_t)i * (size_t)classes;
        int other = y[i] == 0 ? 1 : 0;
        for (int c = other + 1; c < classes; c++)
            if (c != y[i] && zi[c] > zi[other])
                other = c;
        float margin = zi[y[i]] - zi[other] + confidence;
        if (loss)
            loss[i] = margin > 0 || isnan(margin) ? -(double)margin : 0;
        if (!dz)
            continue;
        float *d = dz + (size_t)i * (size_t)classes;
        for (int c = 0; c < classes; c++)
            d[c] = 0;
        if (margin > 0) {
            d[y[i]] = -scale;
            d[other] = scale;
        }
    }
}

void hr_argmax(const float *z, int n0, int n1, int classes, int32_t *pred)
{
    for (int i = n0; i < n1; i++) {
        const float *zi = z + (size_t)i * (size_t)classes;
        int best = 0;
        for (int c = 0; c < classes && best >= 0; c++) {
            if (isnan(zi[c]))
                best = -1;
            else if (zi[c] > zi[best])
                best = c;
        }
        pred[i] = best;
    }
}

double hr_tree_sum(const double *v, size_t n)
{
    size_t chunks = (n + HR_CHUNK - 1) / HR_CHUNK;
    if (n == 0)
        return 0;
    double part[chunks];
    for (size_t q = 0; q < chunks; q++) {
        part[q] = 0;
        for (size_t i = q * HR_CHUNK; i < n && i < (q + 1) * HR_CHUNK; i++)
            part[q] += v[i];
    }
    for (size_t half = 1; half < chunks; half *= 2)
        for (size_t i = 0; i + half < chunks; i += 2 * half)
            part[i] += part[i + half];
    return part[0];
}
