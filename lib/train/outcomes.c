/* lib/train/outcomes.c -- what became of every single image: a table for other programs.
 *
 * Tab-separated, one line per image of the data file in its order, behind a line of names:
 *
 *     image   label   clean   pgd20   aa   aa-by
 *     0       9       9       9       7    apgd-t
 *     1       2       2       -       -    -          not among those attacked
 *
 * A cell holds the class that the network gives the image: the first wrong one that the attack found, else
 * the right one; -1 where its logits were no numbers. So an image withstood an attack if and only if the cell
 * is its label. NAME-by says which part of a strong attack broke it: "clean" when none was needed, "-" none.
 */
#include "train/internal.h"

#include <stdlib.h>

static const char *broken_by(const hr_eval_attack *a, const hr_eval_work *w, uint32_t row)
{
    if (w->correct[row])
        return "-";
    return w->by[row] ? hr_part_names[a->part[w->by[row] - 1]] : "clean";
}

void hr_eval_outcomes(FILE *out, const int32_t *labels, uint32_t images, const hr_dataset *attacked,
                      const hr_eval_attack *list, const hr_eval_work *work, int n)
{
    fputs("image\tlabel", out);
    for (int k = 0; k < n; k++) {
        if (list[k].probe)
            continue;
        fprintf(out, "\t%s", list[k].name);
        if (list[k].nparts)
            fprintf(out, "\t%s-by", list[k].name);
        if (list[k].whole)
            fprintf(out, "\t%s-norm", list[k].name);
    }
    uint32_t next = 0; /* of the attacked, which are in the order of the file */
    for (uint32_t i = 0; i < images; i++) {
        bool among = next < attacked->n && attacked->index[next] == i;
        fprintf(out, "\n%u\t%d", i, labels[i]);
        for (int k = 0; k < n; k++) {
            uint32_t row = list[k].clean ? i : next;
            if (list[k].probe)
                continue;
            if (!list[k].clean && !among)
                fputs(list[k].nparts ? "\t-\t-" : "\t-", out);
            else if (list[k].nparts)
                fprintf(out, "\t%d\t%s", work[k].pred[row], broken_by(&list[k], &work[k], row));
            else
                fprintf(out, "\t%d", work[k].pred[row]);
            if (list[k].whole && among)
                fprintf(out, "\t%.9g", (double)work[k].norm[row]);
            else if (list[k].whole)
                fputs("\t-", out);
        }
        next += among;
    }
    putc('\n', out);
}

json_t *hr_eval_confusion(const int32_t *labels, const hr_eval_work *w, uint32_t images, int classes)
{
    uint32_t *counts = hr_xcalloc((size_t)classes * (size_t)classes, sizeof *counts);
    for (uint32_t i = 0; i < images; i++)
        if (w->pred[i] >= 0)
            counts[(size_t)labels[i] * (size_t)classes + (size_t)w->pred[i]]++;
    json_t *rows = json_array();
    for (int y = 0; y < classes; y++) {
        json_t *row = json_array();
        for (int k = 0; k < classes; k++)
            json_array_append_new(row, json_integer(counts[(size_t)y * (size_t)classes + (size_t)k]));
        json_array_append_new(rows, row);
    }
    free(counts);
    return rows;
}

json_t *hr_eval_curve(const hr_eval_work *w, uint32_t images, const double *radii, int n)
{
    json_t *curve = json_array();
    for (int k = 0; k < n; k++) {
        uint32_t correct = 0;
        for (uint32_t i = 0; i < images; i++)
            correct += (double)w->norm[i] > radii[k];
        json_array_append_new(curve,
                              json_pack("{s:f, s:I, s:f}", "eps", radii[k], "correct", (json_int_t)correct,
                                        "accuracy", images ? 100.0 * correct / images : 0.0));
    }
    return curve;
}
