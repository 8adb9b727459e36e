/* lib/attack/pack.c -- the images of a task that are still in play, and lengths (internal.h). */
#include "attack/internal.h"

#include <math.h>
#include <string.h>

const char *const hr_norm_names[3] = {"linf", "l2", NULL};

hr_pack hr_pack_new(hr_exec *e, int n0, int n1, const uint8_t *broken, int *who)
{
    hr_pack p = {.e = e,
                 .len = hr_exec_input_len(e),
                 .classes = hr_exec_classes(e),
                 .n0 = n0,
                 .n = n1 - n0,
                 .who = who};
    for (int i = n0; i < n1; i++)
        who[i - n0] = i;
    if (broken)
        hr_pack_drop(&p, broken);
    return p;
}

void hr_pack_drop(hr_pack *p, const uint8_t *broken)
{
    int kept = 0;
    for (int s = 0; s < p->n; s++)
        if (!broken[p->who[s]])
            p->who[kept++] = p->who[s];
    p->n = kept;
}

void hr_pack_forward(const hr_pack *p, const float *x)
{
    float *in = hr_exec_input(p->e) + (size_t)p->n0 * p->len;
    for (int s = 0; s < p->n; s++)
        memcpy(in + (size_t)s * p->len, x + (size_t)p->who[s] * p->len, p->len * sizeof *x);
    if (p->n)
        hr_exec_forward(p->e, p->n0, p->n0 + p->n, HR_BN_FOLDED);
}

void hr_pack_backward(const hr_pack *p)
{
    if (p->n)
        hr_exec_backward(p->e, p->n0, p->n0 + p->n, HR_BN_FOLDED, HR_DX);
}

const float *hr_pack_logits(const hr_pack *p, int s)
{
    return hr_exec_logits(p->e) + (size_t)(p->n0 + s) * (size_t)p->classes;
}

float *hr_pack_dlogits(const hr_pack *p, int s)
{
    return hr_exec_dlogits(p->e) + (size_t)(p->n0 + s) * (size_t)p->classes;
}

const float *hr_pack_dinput(const hr_pack *p, int s)
{
    return hr_exec_dinput(p->e) + (size_t)(p->n0 + s) * p->len;
}

int hr_pack_class(const hr_pack *p, int s)
{
    int32_t pred;
    hr_argmax(hr_pack_logits(p, s), 0, 1, p->classes, &pred);
    return pred;
}

int hr_rank_class(const float *z, int classes, int y, int rank)
{
    int at = -1;
    for (int r = 0; r < rank; r++) {
        int best = -1;
        for (int k = 0; k < classes; k++) {
            bool behind = at < 0 || z[k] < z[at] || (k > at && z[k] == z[at]);
            if (k != y && behind && (best < 0 || z[k] > z[best]))
                best = k;
        }
        if (best < 0)
            break;
        at = best;
    }
    return at;
}

double hr_norm_of(enum hr_norm norm, const float *v, size_t len)
{
    double sum = 0.0;
    float most = 0.0f;
    if (norm == HR_L2) {
        for (size_t p = 0; p < len; p++)
            sum += (double)v[p] * v[p];
        return sqrt(sum);
    }
    for (size_t p = 0; p < len; p++)
        most = fabsf(v[p]) > most ? fabsf(v[p]) : most;
    return most;
}

double hr_distance(enum hr_norm norm, const float *a, const float *b, size_t len)
{
    double sum = 0.0;
    for (size_t p = 0; p < len; p++) {
        double d = fabs((double)a[p] - b[p]);
        sum = norm == HR_L2 ? sum + d * d : d > sum ? d : sum;
    }
    return norm == HR_L2 ? sqrt(sum) : sum;
}
