/* test/fuzz/serve.c -- requests to an evaluator (adveval --serve): every line that is not empty gets one line
 * of JSON with an id, counts or an error. */
#include "fuzz.h"

#include "train/train.h"

#include <stdlib.h>
#include <string.h>

static hr_model *net;
static hr_dataset images;

static void make_server(void)
{
    static uint8_t pixels[2 * 2 * 6 * 6];
    static int32_t labels[] = {0, 1};
    static uint32_t index[] = {0, 1};
    for (size_t i = 0; i < sizeof pixels; i++)
        pixels[i] = (uint8_t)(i * i);
    net = fuzz_net(1);
    images = (hr_dataset){
        .n = 2, .c = 2, .h = 6, .w = 6, .classes = 3, .pixels = pixels, .labels = labels, .index = index};
}

bool fuzz_one(const uint8_t *data, size_t n)
{
    hr_err err = HR_ERR_INIT;
    hr_serve_opts o = {.bn = HR_BN_FOLDED,
                       .eps = 0.1,
                       .step = 0.05,
                       .steps = 1,
                       .batch = 1,
                       .threads = 1,
                       .name = "net.nn",
                       .digest = "00ff"};
    if (!net)
        make_server();
    if (n == 0 || n > 1024) /* a request costs an evaluation: few at a time */
        return false;
    o.reg = data[0] == '\n' ? HR_REG_CHANNEL : HR_REG_WEIGHT;
    size_t asked = 0, answered = 0, good = 0, length;
    for (size_t i = 0; i < n; i++)
        asked += data[i] != '\n' && (i + 1 == n || data[i + 1] == '\n');

    char *text;
    FILE *in = fmemopen((void *)(uintptr_t)data, n, "r"), *out = open_memstream(&text, &length);
    must(in && out);
    must(hr_serve(net, &images, &o, in, out, &err) == HR_OK);
    fclose(in);
    fclose(out);
    for (char *line = text, *end; (end = strchr(line, '\n')); line = end + 1) {
        json_t *j = json_loadb(line, (size_t)(end - line), 0, NULL);
        must(j && (line == text || json_object_get(j, "id")));
        answered += line != text; /* the first is the greeting */
        good += json_object_get(j, "robust") != NULL;
        json_decref(j);
    }
    must(answered == asked);
    free(text);
    return good > 0;
}

void fuzz_seeds(void)
{
    static const char weight[] =
        "{\"id\":1,\"kept\":[54,12,108,144,20,15],\"batches\":[0,2]}\n"
        "{\"id\":2,\"kept\":[1,1,1,1,1,1],\"batches\":[1,2]}\n{\"id\":3,\"kept\":[]}\n";
    static const char channel[] = "\n{\"id\":1,\"kept\":[2,3,4,4,5]}\n\n{\"id\":7,\"kept\":[2,1,1,1,1]}";
    fuzz_seed("weight", weight, sizeof weight - 1);
    fuzz_seed("channel", channel, sizeof channel - 1);
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed)
{
    return fuzz_mutate_json(data, size, max, seed, '\n');
}
