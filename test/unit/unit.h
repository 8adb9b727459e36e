/* test/unit/unit.h -- what every C test includes: cmocka with the headers it needs, and three checks.
 *
 * A test file holds functions whose names are claims and a main that lists them; `make test` runs each
 * binary with TAP output and adds the lines up. */
#ifndef HR_UNIT_H
#define HR_UNIT_H

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>

#include "base/base.h"

/* UNIT_TEST=NAME in the environment: run that test only, as test/mutants/run does. */
__attribute__((constructor)) static void choose_test(void)
{
    const char *name = getenv("UNIT_TEST");
    if (name)
        cmocka_set_test_filter(name);
}

/* The call succeeds; otherwise the test fails with the message it left. */
#define assert_ok(call, err)                                                                                 \
    do {                                                                                                     \
        if ((call) != HR_OK)                                                                                 \
            fail_msg("%s: %s", #call, (err).msg);                                                            \
    } while (0)

/* |a - b| <= bound, both printed otherwise. */
#define assert_near(a, b, bound)                                                                             \
    do {                                                                                                     \
        double near_a = (a), near_b = (b), near_t = (bound);                                                 \
        if (!(near_a - near_b <= near_t && near_b - near_a <= near_t))                                       \
            fail_msg("%s = %.17g, %s = %.17g: apart by more than %g", #a, near_a, #b, near_b, near_t);       \
    } while (0)

#endif
