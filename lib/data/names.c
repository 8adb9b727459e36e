/* lib/data/names.c -- links under the names that the published programs give their files.
 *
 * cifar_train_5k.tfrecord -> holdout.tfrecord, ilsvrc12_valid-00000-of-00064.tfrecord ->
 * test-00000-of-00064.tfrecord: symbolic, and relative, so that the directory can be moved. A link stands in
 * no manifest; who reads through one gets the file's own bytes. Links of an earlier conversion that lead
 * nowhere any more are removed; a file of that name that is no link belongs to somebody else and stays. */
#include "data/internal.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Is what follows a part's name in a file's name? */
static bool is_tail(const char *tail)
{
    int k, n, used = 0;
    return strcmp(tail, ".tfrecord") == 0 ||
           (sscanf(tail, "-%5d-of-%5d.tfrecord%n", &k, &n, &used) == 2 && used && tail[used] == '\0');
}

static int link_file(int dir, const char *where, const char *file, const char *name, hr_err *err)
{
    struct stat st;
    char now[NAME_MAX + 1] = "";
    if (fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) == 0) {
        ssize_t n = S_ISLNK(st.st_mode) ? readlinkat(dir, name, now, sizeof now - 1) : -1;
        if (n < 0)
            return hr_fail(err, HR_EIO, "%s/%s: is in the way of a link to %s", where, name, file);
        if (strcmp(now, file) == 0)
            return HR_OK;
        (void)unlinkat(dir, name, 0);
    }
    return symlinkat(file, dir, name) ? hr_fail(err, HR_EIO, "%s/%s: %s", where, name, strerror(errno))
                                      : HR_OK;
}

int hr_link_published(const char *where, const hr_published names[], hr_err *err)
{
    DIR *d = opendir(where);
    if (!d)
        return hr_fail(err, HR_EIO, "%s: %s", where, strerror(errno));
    int rc = HR_OK;
    for (int i = 0; names[i].part && rc == HR_OK; i++) {
        size_t ours = strlen(names[i].part), theirs = strlen(names[i].name);
        struct stat st;
        rewinddir(d);
        for (const struct dirent *e; rc == HR_OK && (e = readdir(d));) {
            if (strncmp(e->d_name, names[i].name, theirs) == 0 && is_tail(e->d_name + theirs) &&
                fstatat(dirfd(d), e->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISLNK(st.st_mode) &&
                faccessat(dirfd(d), e->d_name, F_OK, 0) != 0)
                (void)unlinkat(dirfd(d), e->d_name, 0);
            if (strncmp(e->d_name, names[i].part, ours) != 0 || !is_tail(e->d_name + ours))
                continue;
            char *name = hr_xasprintf("%s%s", names[i].name, e->d_name + ours);
            rc = link_file(dirfd(d), where, e->d_name, name, err);
            free(name);
        }
    }
    closedir(d);
    return rc;
}
