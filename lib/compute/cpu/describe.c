/* lib/compute/cpu/describe.c -- a plan, and the time that it took, as tables and as JSON. */
#include "compute/cpu/plan.h"

#include <stdlib.h>
#include <string.h>

const char *const hr_pass_names[HR_PASS_KINDS] = {"forward", "dx", "dw", "rest", "weights"};

/* ---- the plan ------------------------------------------------------------------------------------------ */

static const char *name_of(const hr_exec *e, const hr_step *s)
{
    return e->m->nodes[s->node].id;
}

/* The kernel of a pass, with a plus where the threads compute it together; NULL where a step has none of its
 * own. */
static const char *kernel_of(const hr_exec *e, const hr_step *s, enum hr_pass pass)
{
    if (s->kind != HR_STEP_CONV || (pass == HR_PASS_DW && !e->opts.train))
        return NULL;
    if (hr_plan_shared(e, s, pass, hr_plan_whole(e)))
        return s->conv.kernel[pass] == HR_CONV_WINO2 ? "wino2+" : "wino4+";
    return hr_conv_kernel_names[s->conv.kernel[pass]];
}

/* The operations of a step, at most four. */
static int operations(const hr_exec *e, const hr_step *s, const char **ops)
{
    enum hr_op first = e->m->nodes[s->node].op;
    int n = 0;
    ops[n++] = hr_op_names[first];
    if (s->bn >= 0 && first != HR_OP_BATCHNORM)
        ops[n++] = hr_op_names[HR_OP_BATCHNORM];
    if (s->in2 >= 0 && first != HR_OP_ADD)
        ops[n++] = hr_op_names[HR_OP_ADD];
    if (s->relu)
        ops[n++] = hr_op_names[HR_OP_RELU];
    return n;
}

/* Bytes that an image takes in this step: its activation, raw values and gradient. Gradients share their
 * places with others, so the sum over the steps is more than what is planned. */
static size_t bytes_image(const hr_exec *e, const hr_step *s)
{
    bool raw = s->kind == HR_STEP_CONV && s->bn >= 0;
    if (!hr_plan_whole(e))
        return s->bits_len + (s->keep ? s->len * sizeof *s->kept : 0);
    return s->len * (raw ? 3 : 2) * sizeof(float);
}

static json_t *shape(const hr_step *s)
{
    return json_pack("[iii]", s->c, s->h, s->w);
}

json_t *hr_plan_json(const hr_exec *e)
{
    json_t *layers = json_array();
    for (int i = 1; i < e->nsteps; i++) {
        const hr_step *s = &e->steps[i];
        const char *ops[4];
        json_t *fused = json_array();
        for (int j = 1, n = operations(e, s, ops); j < n; j++)
            json_array_append_new(fused, json_string(ops[j]));
        json_t *row = json_pack("{s:s, s:s, s:o, s:o, s:o, s:I}", "name", name_of(e, s), "op",
                                hr_op_names[e->m->nodes[s->node].op], "fused", fused, "in",
                                shape(&e->steps[s->in]), "out", shape(s), "macs", (json_int_t)s->macs);
        for (int p = 0; p < HR_PASSES; p++)
            json_object_set_new(row, hr_pass_names[p], json_pack("s?", kernel_of(e, s, (enum hr_pass)p)));
        json_object_set_new(row, "bytes_weights", json_integer((json_int_t)s->conv.bytes));
        json_object_set_new(row, "bytes_image", json_integer((json_int_t)bytes_image(e, s)));
        json_array_append_new(layers, row);
    }
    return json_pack("{s:s, s:s, s:i, s:i, s:b, s:I, s:I, s:o}", "arch", e->m->arch, "kernels", e->k->name,
                     "threads", e->opts.threads, "batch", e->opts.batch, "train", e->opts.train, "bytes",
                     (json_int_t)hr_plan_bytes(e, e->opts.batch), "bytes_fixed", (json_int_t)e->bytes_fixed,
                     "layers", layers);
}

static int longest_name(const hr_exec *e)
{
    int width = 5;
    for (int i = 1; i < e->nsteps; i++) {
        int len = (int)strlen(name_of(e, &e->steps[i]));
        width = len > width ? len : width;
    }
    return width;
}

enum { COLUMNS = 10 };

/* width: of the first column, which is aligned to the left; as are the others that have a negative one. */
static void add_row(const char *const *cells, bool tsv, int width, hr_buf *out)
{
    static const int widths[COLUMNS] = {0, -25, 11, 11, 10, -7, -7, -7, 10, 8};
    for (int i = 0; i < COLUMNS; i++)
        if (tsv)
            hr_buf_printf(out, "%s%s", i ? "\t" : "", cells[i]);
        else
            hr_buf_printf(out, "%s%*s", i ? "  " : "", i ? widths[i] : -width, cells[i]);
    hr_buf_printf(out, "\n");
}

void hr_plan_table(const hr_exec *e, bool tsv, hr_buf *out)
{
    static const char *const columns[COLUMNS] = {"layer",   "does", "in", "out",        "MACs",
                                                 "forward", "dx",   "dw", "weights KB", "image KB"};
    int width = longest_name(e);
    add_row(columns, tsv, width, out);
    for (int i = 1; i < e->nsteps; i++) {
        const hr_step *s = &e->steps[i], *in = &e->steps[s->in];
        const char *ops[4], *kernel[HR_PASSES];
        char does[64] = "", from[40], to[40], macs[24], weights[24], image[24];
        for (int j = 0, n = operations(e, s, ops); j < n; j++) {
            size_t at = strlen(does);
            snprintf(does + at, sizeof does - at, "%s%s", j ? "+" : "", ops[j]);
        }
        for (int p = 0; p < HR_PASSES; p++) {
            kernel[p] = kernel_of(e, s, (enum hr_pass)p);
            if (!kernel[p])
                kernel[p] = "-";
        }
        snprintf(from, sizeof from, "%dx%dx%d", in->c, in->h, in->w);
        snprintf(to, sizeof to, "%dx%dx%d", s->c, s->h, s->w);
        snprintf(macs, sizeof macs, "%.0f", s->macs);
        snprintf(weights, sizeof weights, "%.0f", (double)s->conv.bytes / 1e3);
        snprintf(image, sizeof image, "%.1f", (double)bytes_image(e, s) / 1e3);
        const char *cells[COLUMNS] = {name_of(e, s), does,      from,      to,      macs,
                                      kernel[0],     kernel[1], kernel[2], weights, image};
        add_row(cells, tsv, width, out);
    }
    if (!tsv)
        hr_buf_printf(out,
                      "kernels %s, %d threads, %s in batches of %d images: %.1f MB of memory, "
                      "%.1f of them for any batch\n",
                      e->k->name, e->opts.threads, e->opts.train ? "training" : "attacks and evaluation",
                      e->opts.batch, (double)hr_plan_bytes(e, e->opts.batch) / 1e6,
                      (double)e->bytes_fixed / 1e6);
}

/* ---- the profile --------------------------------------------------------------------------------------- */

/* What all threads did in a step, or (step < 0) in all of them. */
static hr_work sum_work(const hr_exec *e, int step, int pass)
{
    hr_work sum = {0};
    for (int t = 0; t < e->opts.threads; t++)
        for (int i = 0; i < e->nsteps; i++) {
            const hr_work *w =
                &e->work[((size_t)t * (size_t)e->nsteps + (size_t)i) * HR_PASS_KINDS + (size_t)pass];
            if (step < 0 || i == step) {
                sum.seconds += w->seconds;
                sum.macs += w->macs;
            }
        }
    return sum;
}

static void profile_line(const hr_exec *e, int width, const char *name, int pass, const char *kernel,
                         hr_work w, double total, hr_buf *out)
{
    double seconds = w.seconds / e->opts.threads;
    char rate[24] = "-";
    if (w.macs > 0 && seconds > 0)
        snprintf(rate, sizeof rate, "%.1f", 2e-9 * w.macs / seconds);
    hr_buf_printf(out, "%-*s  %-7s  %-7s  %10.1f  %8s  %6.2f\n", width, name, hr_pass_names[pass],
                  kernel ? kernel : "-", 1e3 * seconds, rate, total > 0 ? 100 * seconds / total : 0);
}

void hr_profile_table(const hr_exec *e, hr_buf *out)
{
    if (!e->work)
        return;
    double total = hr_seconds() - e->work_start, spent = 0;
    int width = longest_name(e);
    hr_buf_printf(out, "%-*s  %-7s  %-7s  %10s  %8s  %6s\n", width, "layer", "pass", "kernel", "ms",
                  "GFLOP/s", "%");
    for (int i = 1; i < e->nsteps; i++)
        for (int p = 0; p < HR_PASS_KINDS; p++) {
            hr_work w = sum_work(e, i, p);
            const char *kernel = p < HR_PASSES ? kernel_of(e, &e->steps[i], (enum hr_pass)p) : NULL;
            if (w.seconds > 0)
                profile_line(e, width, name_of(e, &e->steps[i]), p, kernel, w, total, out);
        }
    for (int p = 0; p < HR_PASS_KINDS; p++) {
        hr_work w = sum_work(e, -1, p);
        profile_line(e, width, "all", p, NULL, w, total, out);
        spent += w.seconds / e->opts.threads;
    }
    hr_buf_printf(out, "%-*s  %-7s  %-7s  %10.1f  %8s  %6.2f\n", width, "all", "outside", "-",
                  1e3 * (total - spent), "-", total > 0 ? 100 * (total - spent) / total : 0);
    hr_buf_printf(out, "kernels %s, %d threads, %.3f seconds\n", e->k->name, e->opts.threads, total);
}
