/* test/unit/test_nn.c -- .nn files: what goes in comes out, and nothing damaged or hostile comes in. */
#include "unit.h"
#include "model/model.h"

#include <fcntl.h>
#include <math.h>
#include <msgpack.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char dir[] = "/tmp/test_nn.XXXXXX";
static char path[64], other[64];

static int setup(void **state)
{
    (void)state;
    if (!mkdtemp(dir))
        return -1;
    snprintf(path, sizeof path, "%s/a.nn", dir);
    snprintf(other, sizeof other, "%s/b.nn", dir);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    unlink(path);
    unlink(other);
    return rmdir(dir);
}

/* A small network with one of everything: normalize, bias, batch norm, tie, add, every pool, extras of
 * several types, prune records of both kinds and states, meta and history. */
static hr_model *small(void)
{
    hr_model *m = hr_model_new("tiny", 2, 6, 5, 3);
    int x = hr_model_add_node(m, "normalize", HR_OP_NORMALIZE, 0, -1);
    m->nodes[x].mean[0] = 0.25;
    m->nodes[x].std[0] = m->nodes[x].std[1] = 0.5;
    int s = hr_model_add_conv(m, "short", x, 2, 3, 1, 1, 0, false);
    m->nodes[s].tie = hr_xstrdup("conv1");
    int a = hr_model_add_conv(m, "conv1", x, 2, 3, 3, 1, 1, true);
    a = hr_model_add_batchnorm(m, "bn1", a, 3);
    a = hr_model_add_node(m, "relu", HR_OP_RELU, a, -1);
    a = hr_model_add_node(m, "add", HR_OP_ADD, a, s);
    a = hr_model_add_pool(m, "maxpool", HR_OP_MAXPOOL, a, 3, 2, 1);
    a = hr_model_add_pool(m, "avgpool", HR_OP_AVGPOOL, a, 2, 1, 0);
    a = hr_model_add_pool(m, "adaptive", HR_OP_ADAPTIVE_AVGPOOL, a, 2, 1, 0);
    a = hr_model_add_node(m, "flatten", HR_OP_FLATTEN, a, -1);
    hr_model_add_linear(m, "fc", a, 12, 3, true);
    hr_zoo_init(m, 7);

    hr_model_add_tensor(m, "bn1.num_batches_tracked", HR_I64, 0, NULL);
    *(int64_t *)m->tensors[m->ntensors - 1].data = -5;
    hr_model_add_tensor(m, "extra", HR_BF16, 2, (int64_t[]){2, 3});
    m->prune[s] = (hr_prune){true, HR_REG_CHANNEL, 0.5, 1, true};
    int t = hr_model_add_tensor(m, "short.mask", HR_U8, 4, (int64_t[]){1, 2, 1, 1});
    ((uint8_t *)m->tensors[t].data)[1] = 1;
    m->prune[s + 1] = (hr_prune){true, HR_REG_WEIGHT, 11.0 / 54.0, 11, false};
    m->meta = json_pack("{s:s, s:f}", "strategy", "uniform:0.1", "x", 0.1);
    m->history = json_pack("{s:s}", "tool", "test");
    return m;
}

static void assert_same_model(const hr_model *a, const hr_model *b)
{
    assert_string_equal(a->arch, b->arch);
    assert_int_equal(a->classes, b->classes);
    assert_int_equal(a->nnodes, b->nnodes);
    assert_int_equal(a->ntensors, b->ntensors);
    for (int i = 0; i < a->nnodes; i++) {
        hr_node p = a->nodes[i], q = b->nodes[i];
        assert_string_equal(p.id, q.id);
        assert_int_equal(p.tie != NULL, q.tie != NULL);
        if (p.tie)
            assert_string_equal(p.tie, q.tie);
        p.id = q.id = p.tie = q.tie = NULL;
        assert_memory_equal(&p, &q, sizeof p);
        const hr_prune *r = &a->prune[i], *s = &b->prune[i];
        assert_int_equal(r->set, s->set);
        if (r->set)
            assert_true(r->reg == s->reg && r->rate == s->rate && r->kept == s->kept &&
                        r->active == s->active);
    }
    for (int i = 0; i < a->ntensors; i++) {
        const hr_tensor *s = &a->tensors[i], *t = &b->tensors[i];
        assert_string_equal(s->name, t->name);
        assert_int_equal(s->dtype, t->dtype);
        assert_int_equal(s->ndim, t->ndim);
        assert_memory_equal(s->shape, t->shape, (size_t)s->ndim * sizeof *s->shape);
        assert_memory_equal(s->data, t->data, (size_t)hr_tensor_count(s) * hr_dtype_size(s->dtype));
        assert_int_equal((uintptr_t)t->data % 64, 0);
    }
    assert_true(a->meta == b->meta || json_equal(a->meta, b->meta));
    assert_true(a->history == b->history || json_equal(a->history, b->history));
}

static void test_a_model_comes_back_as_it_was_saved(void **state)
{
    (void)state;
    hr_err err = HR_ERR_INIT;
    hr_model *m = small(), *back;
    char saved[65], loaded[65];
    assert_ok(hr_model_check(m, "small", &err), err);
    assert_ok(hr_nn_save(m, path, saved, &err), err);
    assert_ok(hr_nn_load(path, &back, loaded, &err), err);
    assert_same_model(m, back);
    assert_string_equal(saved, loaded);
    hr_model_free(back);
    hr_model_free(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_model_comes_back_as_it_was_saved),
    };
    return cmocka_run_group_tests_name("nn", tests, setup, teardown);
}
