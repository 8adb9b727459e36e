/* test/unit/test_torch.c -- what leaves for PyTorch and comes back, looked at number by number. Formats, ages
 * and hostile files are in test/torch_bytes.py, PyTorch itself in test/cli/peers-torch2nn.bats. */
#include "unit.h"
#include "model/torch.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char dir[] = "/tmp/test_torch.XXXXXX";
static char path[64];

static int setup(void **state)
{
    (void)state;
    if (!mkdtemp(dir))
        return -1;
    snprintf(path, sizeof path, "%s/a", dir);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    unlink(path);
    return rmdir(dir);
}

static hr_model *small(void)
{
    hr_err err = HR_ERR_INIT;
    hr_model *m;
    assert_ok(hr_zoo_build("resS", &(hr_zoo_opts){.c = 3, .h = 8, .w = 8}, &m, &err), err);
    hr_zoo_init(m, 1);
    return m;
}

/* Written with the layout (-1: safetensors) and read. */
static hr_model *there_and_back(const hr_model *m, int layout)
{
    hr_err err = HR_ERR_INIT;
    hr_out *out;
    hr_model *back;
    assert_ok(hr_out_open(&out, path, 0, &err), err);
    if (layout < 0)
        assert_ok(hr_safetensors_write(m, false, NULL, out, &err), err);
    else
        assert_ok(hr_torch_write(m, (enum hr_torch_layout)layout, false, NULL, out, &err), err);
    assert_ok(hr_out_commit(out, &err), err);
    assert_ok(hr_torch_load(path, NULL, &back, NULL, &err), err);
    return back;
}

/* A mask on conv1 that keeps some weights, or two of three input channels; the weights below it stay. */
static hr_model *masked(enum hr_reg reg)
{
    hr_model *m = small();
    int node = 0;
    while (strcmp(m->nodes[node].id, "conv1") != 0)
        node++;
    int t = hr_model_add_tensor(m, "conv1.mask", HR_U8, 4,
                                reg == HR_REG_WEIGHT ? (int64_t[]){16, 3, 3, 3} : (int64_t[]){1, 3, 1, 1});
    uint8_t *mask = m->tensors[t].data;
    int64_t n = hr_tensor_count(&m->tensors[t]), kept = 0;
    for (int64_t i = 0; i < n; i++)
        kept += mask[i] = i % 3 != 1;
    m->prune[node] = (hr_prune){true, reg, (double)kept / (double)n, kept, true};
    return m;
}

/* conv1.weight as others see it in the file at path, who do not know what nn2torch adds; free() it. */
static float *seen_by_others(int layout)
{
    enum { BYTES = 16 * 3 * 9 * sizeof(float) };
    hr_err err = HR_ERR_INIT;
    float *w = hr_xmalloc(BYTES);
    if (layout >= 0) {
        hr_model *m;
        assert_ok(hr_torch_load(path, &(hr_torch_opts){.arch = "resS", .h = 8, .w = 8, .bare = true}, &m,
                                NULL, &err),
                  err);
        memcpy(w, hr_tensor_f32(&m->tensors[hr_model_find(m, "conv1.weight")]), BYTES);
        hr_model_free(m);
        return w;
    }
    hr_in in;
    hr_buf b = {0};
    uint64_t n;
    assert_ok(hr_in_open(&in, path, &err), err);
    assert_ok(hr_in_slurp(&in, &b, 1 << 24, &err), err);
    hr_in_close(&in);
    memcpy(&n, b.data, sizeof n);
    json_t *header = json_loadb(b.data + 8, n, 0, NULL);
    const json_t *at = json_object_get(json_object_get(header, "conv1.weight"), "data_offsets");
    memcpy(w, b.data + 8 + n + json_integer_value(json_array_get(at, 0)), BYTES);
    json_decref(header);
    hr_buf_release(&b);
    return w;
}

static void test_masked_weights_leave_as_zeros_and_come_back_whole(void **state)
{
    (void)state;
    for (int layout = -1; layout <= HR_TORCH_RADMM; layout++)
        for (int reg = 0; reg < 2; reg++) {
            hr_model *m = masked((enum hr_reg)reg), *back = there_and_back(m, layout);
            const float *w = hr_tensor_f32(&m->tensors[hr_model_find(m, "conv1.weight")]),
                        *v = hr_tensor_f32(&back->tensors[hr_model_find(back, "conv1.weight")]);
            float *seen = seen_by_others(layout);
            for (int i = 0; i < 16 * 3 * 9; i++) {
                bool keep = reg == HR_REG_WEIGHT ? i % 3 != 1 : i / 9 % 3 != 1;
                assert_true(w[i] != 0);
                assert_true(seen[i] == (keep ? w[i] : 0));
                assert_true(v[i] == w[i]);
            }
            assert_int_equal(back->ntensors, m->ntensors);
            free(seen);
            hr_model_free(m);
            hr_model_free(back);
        }
}

static bool file_holds(const char *text)
{
    hr_err err = HR_ERR_INIT;
    hr_in in;
    hr_buf b = {0};
    assert_ok(hr_in_open(&in, path, &err), err);
    assert_ok(hr_in_slurp(&in, &b, 1 << 24, &err), err);
    hr_in_close(&in);
    bool found = memmem(b.data, b.len, text, strlen(text)) != NULL;
    hr_buf_release(&b);
    return found;
}

static void test_admm_variables_have_their_place_in_radmm_and_come_back(void **state)
{
    (void)state;
    for (int layout = 0; layout <= HR_TORCH_RADMM; layout++) {
        hr_model *m = small();
        for (int k = 0; k < 2; k++) {
            int t = hr_model_add_tensor(m, k ? "conv1.weight.admm_Z" : "conv1.weight.admm_U", HR_F32, 4,
                                        (int64_t[]){16, 3, 3, 3});
            for (int i = 0; i < 16 * 3 * 9; i++)
                hr_tensor_f32(&m->tensors[t])[i] = (float)(i + 1000 * k);
        }
        hr_model *back = there_and_back(m, layout);
        assert_int_equal(file_holds("ADMM_U"), layout == HR_TORCH_RADMM);
        for (int k = 0; k < 2; k++) {
            const char *name = k ? "conv1.weight.admm_Z" : "conv1.weight.admm_U";
            assert_true(hr_model_find(back, name) >= 0);
            assert_memory_equal(back->tensors[hr_model_find(back, name)].data,
                                m->tensors[hr_model_find(m, name)].data, 16 * 3 * 9 * 4);
        }
        hr_model_free(m);
        hr_model_free(back);
    }
}

/* Rewrite the one float32 tensor of a safetensors file as 16-bit words. */
static void replace_data(const char *name, const char *dtype, const uint16_t *words, size_t n)
{
    hr_err err = HR_ERR_INIT;
    hr_in in;
    hr_buf b = {0};
    uint64_t len;
    assert_ok(hr_in_open(&in, path, &err), err);
    assert_ok(hr_in_slurp(&in, &b, 1 << 24, &err), err);
    hr_in_close(&in);
    memcpy(&len, b.data, 8);
    json_t *header = json_loadb(b.data + 8, len, 0, NULL), *t = json_object_get(header, name);
    json_object_set_new(t, "dtype", json_string(dtype));
    json_object_set_new(t, "data_offsets", json_pack("[i, I]", 0, (json_int_t)(2 * n)));
    char *text = hr_json_text(header, 0);
    len = strlen(text);
    FILE *fp = fopen(path, "wb");
    assert_non_null(fp);
    fwrite(&len, 8, 1, fp);
    fwrite(text, 1, len, fp);
    fwrite(words, 2, n, fp);
    assert_int_equal(fclose(fp), 0);
    free(text);
    json_decref(header);
    hr_buf_release(&b);
}

/* All finite ones: 65536 less those whose exponent is all ones. */
static void test_every_16_bit_float_keeps_its_value(void **state)
{
    (void)state;
    enum { ROWS = 248, COLUMNS = 256, N = ROWS * COLUMNS };
    hr_err err = HR_ERR_INIT;
    hr_model *m = hr_model_new("halves", COLUMNS, 1, 1, ROWS), *back;
    hr_model_add_linear(m, "fc", 0, COLUMNS, ROWS, false);
    assert_ok(hr_model_check(m, "test", &err), err);
    hr_model_free(there_and_back(m, -1));
    uint16_t *words = hr_xmalloc(N * sizeof *words);
    size_t n = 0;
    for (uint32_t h = 0; h < 65536; h++)
        if ((h >> 10 & 31) != 31)
            words[n++] = (uint16_t)h;
    assert_int_equal(n, N);
    replace_data("fc.weight", "F16", words, N);
    assert_ok(hr_torch_load(path, NULL, &back, NULL, &err), err);
    const float *v = hr_tensor_f32(&back->tensors[0]);
    for (size_t i = 0; i < N; i++) {
        int exponent = words[i] >> 10 & 31, mantissa = words[i] & 1023;
        double value = exponent ? ldexp(1024 + mantissa, exponent - 25) : ldexp(mantissa, -24);
        assert_true(v[i] == (words[i] & 0x8000 ? -value : value));
        assert_int_equal(!!signbit(v[i]), words[i] >> 15);
    }
    hr_model_free(back);
    free(words);
    hr_model_free(m);
}

static void test_a_failed_read_leaves_no_model(void **state)
{
    (void)state;
    hr_err err = HR_ERR_INIT;
    hr_model *m = small(), *back;
    hr_model_free(there_and_back(m, HR_TORCH_DENSE));
    assert_int_equal(hr_torch_load(path, &(hr_torch_opts){.arch = "vgg11"}, &back, NULL, &err), HR_ESHAPE);
    assert_null(back);
    assert_non_null(strstr(err.msg, "are not those of vgg11"));
    assert_int_equal(truncate(path, 1000), 0);
    assert_int_equal(hr_torch_load(path, NULL, &back, NULL, &err), HR_EFORMAT);
    assert_null(back);
    unlink(path);
    assert_int_equal(hr_torch_load(path, NULL, &back, NULL, &err), HR_EIO);
    assert_null(back);
    hr_model_free(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_masked_weights_leave_as_zeros_and_come_back_whole),
        cmocka_unit_test(test_admm_variables_have_their_place_in_radmm_and_come_back),
        cmocka_unit_test(test_every_16_bit_float_keeps_its_value),
        cmocka_unit_test(test_a_failed_read_leaves_no_model),
    };
    return cmocka_run_group_tests_name("torch", tests, setup, teardown);
}
