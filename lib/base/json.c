/* lib/base/json.c -- JSON files and history records (jansson). */
#include "base/base.h"

#include <stdlib.h>
#include <string.h>

enum { JSON_MAX_BYTES = 64 << 20 };

bool hr_is_utf8(const char *s)
{
    json_t *j = json_string(s);
    json_decref(j);
    return j != NULL;
}

char *hr_json_text(const json_t *j, int indent)
{
    size_t flags = JSON_REAL_PRECISION(15) | JSON_ENCODE_ANY;
    flags |= indent > 0 ? JSON_INDENT((size_t)indent) : JSON_COMPACT;
    char *s = json_dumps(j, flags);
    if (!s)
        BUG("JSON value of type %d cannot be written", j ? (int)json_typeof(j) : -1);
    return s;
}

int hr_json_load(const char *path, json_t **out, hr_err *err)
{
    hr_in in;
    hr_buf text = {0};
    json_error_t je;
    *out = NULL;
    int rc = hr_in_open(&in, path, err);
    if (rc)
        return rc;
    rc = hr_in_slurp(&in, &text, JSON_MAX_BYTES, err);
    if (rc == HR_OK) {
        *out = json_loadb(text.data ? text.data : "", text.len, JSON_REJECT_DUPLICATES, &je);
        if (!*out)
            rc = hr_fail(err, HR_EFORMAT, "%s: line %d: not valid JSON: %s", in.name, je.line, je.text);
    }
    hr_buf_release(&text);
    hr_in_close(&in);
    return rc;
}

void hr_json_write(const json_t *j, hr_out *out, int indent)
{
    char *text = hr_json_text(j, indent);
    fputs(text, hr_out_file(out));
    fputc('\n', hr_out_file(out));
    free(text);
}

int hr_json_save(const json_t *j, const char *path, int indent, hr_err *err)
{
    hr_out *out;
    int rc = hr_out_open(&out, path, 0, err);
    if (rc)
        return rc;
    hr_json_write(j, out, indent);
    return hr_out_commit(out, err);
}

void hr_history_input(json_t *h, const char *role, const char *sha256, const json_t *history)
{
    json_t *inputs = json_object_get(h, "inputs");
    if (!json_is_array(inputs)) {
        inputs = json_array();
        json_object_set_new(h, "inputs", inputs);
    }
    json_t *in = json_pack("{s:s, s:s}", "role", role, "sha256", sha256);
    if (history)
        json_object_set_new(in, "history", json_deep_copy(history));
    json_array_append_new(inputs, in);
}
