/* test/shim/vendor_queue.h -- how C code queues work on a stream of the shim. */
#ifndef HR_SHIM_VENDOR_QUEUE_H
#define HR_SHIM_VENDOR_QUEUE_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

/* fn runs when the stream comes to it (again, for every replay), on a copy of arg. */
void shim_queue_call(void *stream, void (*fn)(void *arg), const void *arg, size_t bytes);

#ifdef __cplusplus
}
#endif
#endif
