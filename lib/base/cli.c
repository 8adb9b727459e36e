/* lib/base/cli.c -- one option table per tool makes its parser, its --help and its history record. */
#include "base/base.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <math.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const hr_tool *tool;
static bool quiet;
static json_t *options; /* result-affecting options of this run */

static const char *tool_name(void)
{
    return tool ? tool->name : "heracles";
}

bool hr_quiet(void)
{
    return quiet;
}

static void say(const char *prefix, const char *fmt, va_list ap)
{
    char line[1024];
    vsnprintf(line, sizeof line, fmt, ap);
    for (char *p = line; *p; p++) /* arguments may hold anything */
        if (iscntrl((unsigned char)*p))
            *p = '?';
    fflush(stdout);
    fprintf(stderr, "%s: %s%s\n", tool_name(), prefix, line);
}

void hr_die(const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    say("", fmt, ap);
    va_end(ap);
    exit(1);
}

void hr_die_err(const hr_err *err)
{
    fflush(stdout);
    fprintf(stderr, "%s: %s\n", tool_name(), err->msg);
    exit(err->code == HR_EINTR ? HR_EXIT_INTERRUPTED : 1);
}

void hr_usage(const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    say("", fmt, ap);
    va_end(ap);
    fprintf(stderr, "Try '%s --help'.\n", tool_name());
    exit(2);
}

void hr_note(const char *fmt, ...)
{
    va_list ap;
    if (quiet)
        return;
    va_start(ap, fmt);
    say("", fmt, ap);
    va_end(ap);
}

void hr_warn(const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    say("warning: ", fmt, ap);
    va_end(ap);
}

static bool parse_number(const char *s, char **end, double *out)
{
    if (*s == '\0' || strchr(" \t\n", *s))
        return false;
    errno = 0;
    *out = strtod(s, end);
    return *end != s && isfinite(*out);
}

bool hr_parse_real(const char *s, double *out)
{
    char *end;
    double den;
    if (!parse_number(s, &end, out))
        return false;
    if (*end == '/') {
        if (!parse_number(end + 1, &end, &den) || den == 0.0)
            return false;
        *out /= den;
    }
    return *end == '\0';
}

bool hr_parse_int(const char *s, int64_t *out)
{
    char *end;
    if (*s == '\0' || strchr(" \t\n", *s))
        return false;
    errno = 0;
    long long v = strtoll(s, &end, 10);
    if (errno || end == s || *end)
        return false;
    *out = v;
    return true;
}

int hr_default_threads(void)
{
    cpu_set_t set;
    int64_t wanted;
    const char *env = getenv("OMP_NUM_THREADS");
    if (env && hr_parse_int(env, &wanted) && wanted >= 1 && wanted <= 1024)
        return (int)wanted;
    if (sched_getaffinity(0, sizeof set, &set))
        return 1;
    int n = CPU_COUNT(&set);
    return n > 0 ? n : 1;
}

/* The value an option holds now, as JSON: for --help before parsing, for the history after it. */
static json_t *value_json(const hr_opt *o)
{
    switch (o->kind) {
    case HR_OPT_FLAG:
        return json_boolean(*(bool *)o->dest);
    case HR_OPT_INT:
        return json_integer(*(int64_t *)o->dest);
    case HR_OPT_REAL:
        return json_real(*(double *)o->dest);
    case HR_OPT_CHOICE:
        return json_string(o->choices[*(int *)o->dest]);
    case HR_OPT_STRING:
        if (o->flags & HR_OPT_REPEAT) {
            const hr_list *l = o->dest;
            json_t *a = json_array();
            for (size_t i = 0; i < l->n; i++)
                json_array_append_new(a, json_string(l->items[i]));
            return a;
        }
        return *(const char **)o->dest ? json_string(*(const char **)o->dest) : json_null();
    }
    BUG("option kind %d", (int)o->kind);
}

static void print_default(const hr_opt *o)
{
    if (o->kind == HR_OPT_FLAG || (o->flags & HR_OPT_REPEAT))
        return;
    if (o->kind == HR_OPT_STRING && !*(const char **)o->dest)
        return;
    if (o->kind == HR_OPT_REAL && !isfinite(*(double *)o->dest))
        return; /* "not given": the help text says what happens then */
    if (o->kind == HR_OPT_STRING || o->kind == HR_OPT_CHOICE) {
        printf(" [%s]", o->kind == HR_OPT_CHOICE ? o->choices[*(int *)o->dest] : *(const char **)o->dest);
        return;
    }
    if (o->kind == HR_OPT_REAL)
        printf(" [%.6g]", *(double *)o->dest);
    else
        printf(" [%lld]", (long long)*(int64_t *)o->dest);
}

static void print_row(char letter, const char *name, const char *arg, const char *help, const hr_opt *o)
{
    char left[64];
    snprintf(left, sizeof left, "%c%c%c --%s%s%s", letter ? '-' : ' ', letter ? letter : ' ',
             letter ? ',' : ' ', name, arg ? " " : "", arg ? arg : "");
    printf("  %-29s %s", left, help);
    if (o && o->kind == HR_OPT_CHOICE) {
        printf(":");
        for (const char *const *c = o->choices; *c; c++)
            printf("%s%s", c == o->choices ? " " : ", ", *c);
    }
    if (o)
        print_default(o);
    putchar('\n');
}

static void print_help(void)
{
    printf("usage: %s %s\n%s\n", tool->name, tool->synopsis, tool->summary);
    bool resumes = false;
    for (const hr_opt *o = tool->opts; o->name; o++) {
        resumes |= strcmp(o->name, "restart") == 0; /* who can discard a state keeps one */
        print_row(o->letter, o->name, o->arg, o->help, o);
    }
    print_row('q', "quiet", NULL, "no words on stderr but warnings and errors", NULL);
    print_row('h', "help", NULL, "this text", NULL);
    print_row('V', "version", NULL, "version", NULL);
    printf("\nExample: %s\nExit status: 0 done, 1 failed (reason on stderr), 2 wrong usage%s\n",
           tool->example, resumes ? ", 75 interrupted (run it again)" : "");
}

static void set_number(const hr_opt *o, const char *text, double v)
{
    if ((o->min != 0.0 || o->max != 0.0) && !(v >= o->min && v <= o->max))
        hr_usage("--%s: %s is outside %.10g..%.10g", o->name, text, o->min, o->max);
}

static void set_option(const hr_opt *o, const char *text)
{
    switch (o->kind) {
    case HR_OPT_FLAG:
        *(bool *)o->dest = true;
        return;
    case HR_OPT_STRING:
        if ((o->flags & HR_OPT_RESULT) && !hr_is_utf8(text))
            hr_usage("--%s: '%s' is not UTF-8", o->name, text);
        if (o->flags & HR_OPT_REPEAT) {
            hr_list *l = o->dest;
            l->items = hr_xrealloc(l->items, (l->n + 1) * sizeof *l->items);
            l->items[l->n++] = text;
        } else {
            *(const char **)o->dest = text;
        }
        return;
    case HR_OPT_INT:
        if (!hr_parse_int(text, o->dest))
            hr_usage("--%s: '%s' is not a whole number", o->name, text);
        set_number(o, text, (double)*(int64_t *)o->dest);
        return;
    case HR_OPT_REAL:
        if (!hr_parse_real(text, o->dest))
            hr_usage("--%s: '%s' is not a number or a fraction such as 8/255", o->name, text);
        set_number(o, text, *(double *)o->dest);
        return;
    case HR_OPT_CHOICE:
        for (int i = 0; o->choices[i]; i++)
            if (strcmp(text, o->choices[i]) == 0) {
                *(int *)o->dest = i;
                return;
            }
        hr_buf list = {0};
        for (int i = 0; o->choices[i]; i++)
            hr_buf_printf(&list, "%s%s", i ? ", " : "", o->choices[i]);
        hr_usage("--%s: '%s' is none of: %s", o->name, text, list.data);
    }
}

/* Give closed standard descriptors to /dev/null, opened the wrong way round: reading standard input and
 * writing standard output then fail, as they would when closed; standard error just swallows. */
static void guard_descriptors(void)
{
    for (int fd = 0; fd <= STDERR_FILENO; fd++)
        if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", fd == STDOUT_FILENO ? O_RDONLY : O_WRONLY) != fd)
            _exit(1); /* no words: there is nowhere to say them */
}

int hr_tool_start(const hr_tool *t, int argc, char **argv)
{
    enum { LONG_BASE = 1000 };
    tool = t;
    guard_descriptors();
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN);
    setvbuf(stdout, NULL, _IOFBF, 1 << 16);

    size_t n = 0;
    while (t->opts[n].name)
        n++;
    struct option *longs = hr_xcalloc(n + 4, sizeof *longs);
    hr_buf shorts = {0};
    hr_buf_printf(&shorts, ":qhV");
    for (size_t i = 0; i < n; i++) {
        bool has_arg = t->opts[i].kind != HR_OPT_FLAG;
        longs[i] = (struct option){t->opts[i].name, has_arg ? required_argument : no_argument, NULL,
                                   LONG_BASE + (int)i};
        if (t->opts[i].letter)
            hr_buf_printf(&shorts, "%c%s", t->opts[i].letter, has_arg ? ":" : "");
    }
    longs[n] = (struct option){"quiet", no_argument, NULL, 'q'};
    longs[n + 1] = (struct option){"help", no_argument, NULL, 'h'};
    longs[n + 2] = (struct option){"version", no_argument, NULL, 'V'};

    opterr = 0;
    int c;
    while ((c = getopt_long(argc, argv, shorts.data, longs, NULL)) != -1) {
        const hr_opt *o = NULL;
        if (c == 'q') {
            quiet = true;
            continue;
        }
        if (c == 'h') {
            print_help();
            exit(hr_tool_finish());
        }
        if (c == 'V') {
            printf("%s (HERACLES) %s\n", t->name, HR_VERSION);
            exit(hr_tool_finish());
        }
        if (c == ':')
            hr_usage("option '%s' needs an argument", argv[optind - 1]);
        if (c == '?')
            hr_usage("option '%s' is unknown, ambiguous, or takes no argument", argv[optind - 1]);
        if (c >= LONG_BASE)
            o = &t->opts[c - LONG_BASE];
        else
            for (size_t i = 0; i < n; i++)
                if (t->opts[i].letter == c)
                    o = &t->opts[i];
        if (!o)
            BUG("getopt returned %d", c);
        set_option(o, optarg);
    }
    free(longs);
    hr_buf_release(&shorts);

    int given = argc - optind;
    if (given < t->min_args)
        hr_usage("%d argument%s needed, %d given: %s %s", t->min_args, t->min_args == 1 ? " is" : "s are",
                 given, t->name, t->synopsis);
    if (t->max_args >= 0 && given > t->max_args)
        hr_usage("unexpected argument '%s'", argv[optind + t->max_args]);

    options = json_object();
    for (size_t i = 0; i < n; i++)
        if (t->opts[i].flags & HR_OPT_RESULT) {
            json_t *v = value_json(&t->opts[i]);
            json_object_set_new(options, t->opts[i].name, v ? v : json_null());
        }
    return optind;
}

json_t *hr_history_new(void)
{
    json_t *h = json_pack("{s:s, s:s}", "tool", tool_name(), "version", HR_VERSION);
    json_object_set_new(h, "options", options ? json_deep_copy(options) : json_object());
    return h;
}

void hr_tool_filled_in(const char *name, double value)
{
    if (options)
        json_object_set_new(options, name, json_real(value));
}

int hr_tool_finish(void)
{
    int rc = 0;
    errno = 0;
    if (fflush(stdout) || ferror(stdout)) {
        fprintf(stderr, "%s: <stdout>: writing: %s\n", tool_name(), errno ? strerror(errno) : "write error");
        rc = 1;
    }
    json_decref(options);
    options = NULL;
    return rc;
}
