/* lib/train/pseudo.c -- labels for images that have none, from a network that was trained without them. */
#include "train/train.h"

#include <stdlib.h>

int hr_pseudo_labels(hr_model *m, const char *name, hr_dataset *ds, const hr_exec_opts *eo, hr_err *err)
{
    hr_exec *e = hr_exec_new(m, eo, err);
    if (!e)
        return err->code;
    int rc = HR_OK;
    uint32_t batch = (uint32_t)eo->batch;
    uint32_t *rows = hr_xmalloc(batch * sizeof *rows);
    int32_t *given = hr_xmalloc(batch * sizeof *given);
    for (uint32_t at = 0; at < ds->n && !rc; at += batch) {
        int n = (int)(ds->n - at < batch ? ds->n - at : batch);
        for (int i = 0; i < n; i++)
            rows[i] = at + (uint32_t)i;
        hr_batch_fill(ds, rows, n, hr_exec_input(e), given);
        hr_exec_infer(e, n);
        hr_argmax(hr_exec_logits(e), 0, n, m->classes, given);
        for (int i = 0; i < n && !rc; i++)
            if (given[i] < 0)
                rc = hr_fail(err, HR_EINVAL, "%s: its logits of extra image %u are no numbers", name,
                             at + (uint32_t)i);
            else
                ds->labels[at + (uint32_t)i] = given[i];
    }
    free(rows);
    free(given);
    hr_exec_free(e);
    return rc;
}
