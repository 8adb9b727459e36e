/* test/unit/test_cuda_zoo.c -- the networks of the zoo, on the smallest images that they take, on the device
 * and on the CPU: logits, gradient to the image and to every parameter. One of
 * every kind; with the argument "all" (test/long/cuda-zoo.bats) every one, as attacks run it. */
#include "nets.h"

#include "compute/compute.h"
#include "cuda.h"

enum { IMAGES = 2, CLASSES = 10 };

/* |a - b| over |b|, in l2. Logits are continuous: 5e-6 was seen. Gradients are not: a unit of some hundred
 * thousand that is about zero may be on for one and off for the other, which moves a late layer's by a
 * hundredth or two (small networks are held to the last bits elsewhere: test_cuda.c). */
#define LOGITS 1e-4
#define GRADIENTS 0.1

static void alike(const char *net, const char *what, const float *a, const float *b, size_t n, double bound)
{
    double off = 0, all = 0;
    for (size_t i = 0; i < n; i++) {
        off += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
        all += (double)b[i] * b[i];
    }
    if (!(sqrt(off) <= bound * sqrt(all) && all > 0))
        fail_msg("%s: %s is off by %.3g of %.3g", net, what, sqrt(off), sqrt(all));
}

static hr_exec *opened(hr_model *m, hr_device device, bool dw)
{
    hr_err err = HR_ERR_INIT;
    hr_exec_opts o = {.batch = IMAGES, .threads = 1, .train = dw, .exact = true, .device = device};
    hr_exec *e = hr_exec_new(m, &o, &err);
    if (!e)
        fail_msg("%s: %s", m->arch, err.msg);
    return e;
}

static void run(hr_exec *e, enum hr_bn_mode bn, unsigned flags)
{
    size_t len = hr_exec_input_len(e);
    hr_fill_uniform(hr_exec_input(e), IMAGES * len, 0, 1, 1, HR_STREAM_TEST, 0, 0, 0);
    hr_exec_forward(e, 0, IMAGES, bn);
    hr_fill_normal(hr_exec_dlogits(e), (size_t)IMAGES * CLASSES, 0, 1, 1, HR_STREAM_TEST, 1, 0, 0);
    hr_exec_backward(e, 0, IMAGES, bn, flags);
}

/* A network as attacks run it, or with its gradients, statistics being constants. */
static void check(const char *name, int side, bool dw)
{
    hr_err err = HR_ERR_INIT;
    hr_model *m = NULL;
    hr_zoo_opts o = {.c = 3, .h = side, .w = side, .classes = CLASSES};
    assert_ok(hr_zoo_build(name, &o, &m, &err), err);
    hr_zoo_init(m, 3);
    hr_exec *cpu = opened(m, (hr_device){.name = "cpu"}, dw), *device = opened(m, test_device(), dw);
    assert_true(hr_exec_on_device(device));
    enum hr_bn_mode bn = dw ? HR_BN_RUNNING : HR_BN_FOLDED;
    run(cpu, bn, dw ? HR_DX | HR_DW : HR_DX);
    run(device, bn, dw ? HR_DX | HR_DW : HR_DX);
    alike(name, "logits", hr_exec_logits(device), hr_exec_logits(cpu), (size_t)IMAGES * CLASSES, LOGITS);
    alike(name, "dx", hr_exec_dinput(device), hr_exec_dinput(cpu), IMAGES * hr_exec_input_len(cpu),
          GRADIENTS);
    for (int t = 0; dw && t < m->ntensors; t++)
        if (hr_exec_grad(cpu, t))
            alike(name, m->tensors[t].name, hr_exec_grad(device, t), hr_exec_grad(cpu, t),
                  (size_t)hr_tensor_count(&m->tensors[t]), GRADIENTS);
    hr_exec_free(cpu);
    hr_exec_free(device);
    hr_model_free(m);
}

static void test_every_network_of_the_zoo_is_that_of_the_cpu(void **state)
{
    (void)state;
    for (int i = 0; hr_zoo_names[i]; i++) {
        bool vgg = !strncmp(hr_zoo_names[i], "vgg", 3), largest = !strcmp(hr_zoo_names[i], "ResNet50");
        check(hr_zoo_names[i], largest || !strncmp(hr_zoo_names[i], "vgg13", 5) ? 32 : vgg ? 16 : 8, false);
    }
}

static void test_gradients_of_networks_of_every_kind_are_those_of_the_cpu(void **state)
{
    (void)state;
    check("vgg4_bn", 4, true);
    check("resnet18", 4, true);
    check("wrn_28_4", 4, true);
    check("resS", 8, true);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest all[] = {cmocka_unit_test(test_every_network_of_the_zoo_is_that_of_the_cpu)};
    const struct CMUnitTest some[] = {
        cmocka_unit_test(test_gradients_of_networks_of_every_kind_are_those_of_the_cpu)};
    on_the_shim();
    if (argc == 2 && !strcmp(argv[1], "all"))
        return cmocka_run_group_tests_name("the zoo on a device", all, NULL, NULL);
    return cmocka_run_group_tests_name("networks on a device", some, NULL, NULL);
}
