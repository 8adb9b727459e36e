/* lib/model/torch_notes.c -- what nn2torch writes beside the tensors, so that torch2nn can give back the same
 * network: the graph and prune records as the header of a .nn file, names and order of its tensors, meta and
 * history. PyTorch does not look at it (a record of its own in a zip, metadata in safetensors). Whoever loads
 * and saves the file with PyTorch drops it; the network is recognised by its keys then. */
#include "model/torch_file.h"

#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>

enum { NOTES_VERSION = 1, MAX_HEADER = 4 << 20 };

json_t *hr_torch_notes(const hr_model *m, const json_t *history)
{
    hr_buf header = {0};
    hr_nn_put_header(&header, m);
    char *text = hr_xmalloc(header.len / 3 * 4 + 8);
    EVP_EncodeBlock((unsigned char *)text, (unsigned char *)header.data, (int)header.len);
    json_t *notes = json_pack("{s:i, s:s, s:[]}", "heracles", NOTES_VERSION, "header", text, "tensors");
    if (!notes)
        BUG("the notes are no JSON");
    for (int i = 0; i < m->ntensors; i++)
        json_array_append_new(json_object_get(notes, "tensors"), json_string(m->tensors[i].name));
    json_object_set_new(notes, "meta", m->meta ? json_deep_copy(m->meta) : json_null());
    history = history ? history : m->history;
    json_object_set_new(notes, "history", history ? json_deep_copy(history) : json_null());
    free(text);
    hr_buf_release(&header);
    return notes;
}

int hr_torch_notes_model(const struct hr_torch_file *f, hr_model **out, hr_err *err)
{
    const json_t *n = f->notes;
    json_t *meta = json_object_get(n, "meta"), *history = json_object_get(n, "history");
    const char *text = json_string_value(json_object_get(n, "header"));
    size_t len = text ? strlen(text) : 0;
    *out = NULL;
    if (json_integer_value(json_object_get(n, "heracles")) != NOTES_VERSION || len == 0 || len % 4 ||
        len / 4 * 3 > MAX_HEADER || !json_is_array(json_object_get(n, "tensors")) ||
        (meta && !json_is_null(meta) && !json_is_object(meta)) ||
        (history && !json_is_null(history) && !json_is_object(history)))
        return hr_fail(err, HR_EFORMAT, "%s: its notes are not those of nn2torch, version %d", f->name,
                       NOTES_VERSION);
    char *header = hr_xmalloc(len);
    int got = EVP_DecodeBlock((unsigned char *)header, (const unsigned char *)text, (int)len), tensors = 0;
    for (size_t i = len; got > 0 && i > len - 2 && text[i - 1] == '='; i--)
        got--; /* padding */
    int rc = got <= 0 ? hr_fail(err, HR_EFORMAT, "%s: the graph in its notes is no base64", f->name)
                      : hr_nn_get_header(header, (size_t)got, f->name, out, &tensors, err);
    free(header);
    if (rc)
        return rc;
    (*out)->bare = true;
    (*out)->meta = json_is_object(meta) ? json_incref(meta) : NULL;
    (*out)->history = json_is_object(history) ? json_incref(history) : NULL;
    if ((size_t)tensors == json_array_size(json_object_get(n, "tensors")))
        return HR_OK;
    hr_model_free(*out);
    *out = NULL;
    return hr_fail(err, HR_EFORMAT, "%s: its notes list %zu tensors, their graph counts %d", f->name,
                   json_array_size(json_object_get(n, "tensors")), tensors);
}
