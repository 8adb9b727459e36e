/* test/fuzz/record.c -- evaluation records, one JSON object a line, as summarize reads and shows them. */
#include "fuzz.h"

#include "report/report.h"

#include <stdlib.h>
#include <string.h>

static void ignore(const char *sentence, void *user)
{
    (void)user;
    must(sentence[0]);
}

bool fuzz_one(const uint8_t *data, size_t n)
{
    hr_err err = HR_ERR_INIT;
    hr_records rs = {0};
    const char *path = fuzz_file(0, data, n);
    (void)!hr_history_show(path, NULL, fuzz_sink(), &err);
    if (hr_records_read(&rs, path, ignore, NULL, &err)) {
        must(rs.n == 0);
        hr_records_release(&rs);
        return false;
    }
    hr_records_compare(&rs, ignore, NULL);
    for (int acc = 0; hr_accuracy_names[acc]; acc++)
        for (int format = 0; hr_table_format_names[format]; format++)
            hr_table_write(&rs, (enum hr_accuracy)acc, (enum hr_table_format)format, fuzz_sink());
    for (size_t i = 0; i < rs.n; i++)
        if (rs.r[i].history)
            hr_history_print(rs.r[i].history, fuzz_sink());
    hr_records_release(&rs);
    return true;
}

void fuzz_seeds(void)
{
    static const char dense[] =
        "{\"record\":\"eval\",\"version\":1,\"model\":{\"arch\":\"resS\",\"digest\":\"00ff\",\"params\":7740,"
        "\"label\":\"dense\"},\"pruning\":null,\"data\":{\"name\":\"FashionMNIST\",\"images\":10000,"
        "\"digest\":\"ab\"},"
        "\"attacks\":[{\"name\":\"clean\",\"images\":1000,\"correct\":851,\"accuracy\":85.1,\"balanced\":85."
        "12},"
        "{\"name\":\"fgsm\",\"loss\":\"ce\",\"eps\":0.1,\"step\":0.1,\"steps\":1,\"restarts\":1,\"images\":"
        "1000,"
        "\"correct\":612,\"accuracy\":61.2,\"balanced\":61},{\"name\":\"pgd20\",\"loss\":\"ce\",\"eps\":0.1,"
        "\"step\":0.025,\"steps\":20,\"restarts\":1,\"images\":1000,\"correct\":580,\"accuracy\":58,"
        "\"balanced\":57.9}]}\n";
    static const char pruned[] =
        "{\"record\":\"eval\",\"version\":1,\"model\":{\"arch\":\"resS\",\"digest\":\"01ff\",\"params\":7740,"
        "\"label\":\"search-0 "
        "\\u00e9\"},\"pruning\":{\"reg\":\"channel\",\"strategy\":\"search-0\",\"rate\":0.5,"
        "\"density\":0.3,\"budget\":{\"inout\":0.25,\"masked\":0.3,\"macs\":0.31}},\"data\":{\"name\":"
        "\"FashionMNIST\",\"images\":10000,\"digest\":\"ab\"},\"attacks\":[{\"name\":\"clean\",\"images\":"
        "1000,"
        "\"correct\":800,\"accuracy\":80,\"balanced\":80}],\"history\":{\"tool\":\"adveval\",\"version\":\"0."
        "1.0\","
        "\"options\":{\"eps\":0.1,\"attacks\":\"clean\",\"limit\":null},\"inputs\":[{\"role\":\"model\","
        "\"sha256\":"
        "\"5c1f\",\"history\":{\"tool\":\"advtrain\",\"options\":{},\"inputs\":[]}}]}}\n";
    const char *steps = strstr(dense, "\"steps\":20");
    fuzz_seed("dense", dense, sizeof dense - 1);
    hr_buf endless = {0}, both = {0}; /* endless: as many steps as a number can say */
    hr_buf_printf(&endless, "%.*s%s%s", (int)(steps - dense), dense, "\"steps\":9223372036854775807",
                  steps + strlen("\"steps\":20"));
    fuzz_seed("endless", endless.data, endless.len);
    hr_buf_release(&endless);
    hr_buf_printf(&both, "%s%s", dense, pruned);
    fuzz_seed("both", both.data, both.len);
    hr_buf_release(&both);
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed)
{
    return fuzz_mutate_json(data, size, max, seed, '\n');
}
