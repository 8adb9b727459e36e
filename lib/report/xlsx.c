/* lib/report/xlsx.c -- a table as a spreadsheet, through libxlsxwriter.
 *
 * The spreadsheet holds what the CSV rendering holds: the CSV is rendered into memory and its cells become
 * numbers or strings, unrounded, shown with two decimals where they have a fraction. The library writes to a
 * path of its own choosing, so it gets a temporary file, whose bytes then go the way of every output. The
 * time of creation is fixed: the same records give the same bytes. */
#include "report/report.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xlsxwriter.h>

struct sheet {
    lxw_worksheet *ws;
    lxw_format *head, *fraction;
};

enum { LONGEST_NUMBER = 24 }; /* a digest may be made of digits alone */

static void put(const struct sheet *s, lxw_row_t row, lxw_col_t col, const char *text)
{
    double v;
    char *end;
    v = strtod(text, &end);
    if (row == 0)
        worksheet_write_string(s->ws, row, col, text, s->head);
    else if (*text && !*end && strlen(text) <= LONGEST_NUMBER && isfinite(v))
        worksheet_write_number(s->ws, row, col, v, v == floor(v) ? NULL : s->fraction);
    else if (*text)
        worksheet_write_string(s->ws, row, col, text, NULL);
}

/* Cells of a CSV text of ours (RFC 4180): quotes around text, doubled within it; lines end in CR LF or LF. */
static void fill(const struct sheet *s, const char *csv)
{
    hr_buf cell = {0};
    lxw_row_t row = 0;
    lxw_col_t col = 0;
    bool quoted = false;
    for (const char *c = csv; *c; c++) {
        if (*c == '"' && quoted && c[1] == '"')
            hr_buf_add(&cell, c++, 1);
        else if (*c == '"')
            quoted = !quoted;
        else if (quoted || (*c != ',' && *c != '\n' && *c != '\r'))
            hr_buf_add(&cell, c, 1);
        else if (*c != '\r') {
            put(s, row, col, cell.data ? cell.data : "");
            cell.len = 0;
            if (cell.data)
                cell.data[0] = '\0';
            col = *c == ',' ? (lxw_col_t)(col + 1) : 0;
            row += *c == '\n';
        }
    }
    hr_buf_release(&cell);
}

static int make(const char *csv, const char *path, const char *name, hr_err *err)
{
    lxw_workbook *wb = workbook_new(path);
    if (!wb)
        return hr_fail(err, HR_EIO, "%s: cannot make a spreadsheet", name);
    lxw_doc_properties about = {.created = 946684800}; /* 2000-01-01 */
    workbook_set_properties(wb, &about);
    struct sheet s = {workbook_add_worksheet(wb, "results"), workbook_add_format(wb),
                      workbook_add_format(wb)};
    format_set_bold(s.head);
    format_set_num_format(s.fraction, "0.00");
    worksheet_freeze_panes(s.ws, 1, 0);
    fill(&s, csv);
    lxw_error rc = workbook_close(wb);
    return rc ? hr_fail(err, HR_EIO, "%s: cannot make a spreadsheet: %s", name, lxw_strerror(rc)) : HR_OK;
}

static int copy(const char *path, FILE *out, const char *name, hr_err *err)
{
    FILE *in = fopen(path, "rb");
    if (!in)
        return hr_fail(err, HR_EIO, "%s: %s: %s", name, path, strerror(errno));
    char block[1 << 14];
    size_t n;
    while ((n = fread(block, 1, sizeof block, in)) > 0)
        fwrite(block, 1, n, out); /* an error shows when it is committed */
    bool bad = ferror(in);
    fclose(in);
    return bad ? hr_fail(err, HR_EIO, "%s: %s: cannot read it back", name, path) : HR_OK;
}

int hr_xlsx_write(const char *csv, hr_out *out, hr_err *err)
{
    const char *dir = getenv("TMPDIR"), *name = hr_out_name(out);
    char *path = hr_xasprintf("%s/heracles-XXXXXX", dir && *dir ? dir : "/tmp");
    int fd = mkstemp(path), rc;
    if (fd < 0) {
        rc = hr_fail(err, HR_EIO, "%s: %s: %s", name, path, strerror(errno));
    } else {
        close(fd);
        rc = make(csv, path, name, err);
        rc = rc ? rc : copy(path, hr_out_file(out), name, err);
        unlink(path);
    }
    free(path);
    return rc;
}
