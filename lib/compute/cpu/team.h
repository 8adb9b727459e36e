/* lib/compute/cpu/team.h -- wide layers, computed by several threads together.
 *
 * Each thread has samples of its own. That is right for as long as a layer's weights stay in the second-level
 * cache, or serve for many pixels. The last layers of VGG16 have 512 channels and maps of 4x4 or 2x2 pixels:
 * 37 MB of transformed weights for the 16 tiles of a thread's 16 samples, so that reading them takes longer
 * than the products, and every thread reads all of them. Here the threads put their tiles together, and each
 * multiplies some of the points (wino.c), so that the weights are read once. The sums are the same, bit for
 * bit.
 *
 * Threads that walk through the network by themselves (an attack on each one's samples) meet at such a layer:
 * who comes first waits for the others. When all have come to the same layer they compute it together. When
 * they have not, their ways have parted (attacks that end early, say), and each goes on alone from there. A
 * thread that has no more samples leaves, and nobody waits for it. So there is no order of events in which
 * somebody waits for ever, as long as members do nothing but compute, meet and leave. */
#ifndef HR_COMPUTE_CPU_TEAM_H
#define HR_COMPUTE_CPU_TEAM_H

#include "compute/cpu/wino.h"

typedef struct hr_team hr_team;

/* room: borrowed, of len floats, for the tiles that threads put together: hr_wino_shared_room of the largest
 * layer. */
hr_team *hr_team_new(float *room, size_t len);
void hr_team_free(hr_team *t); /* NULL is fine */

/* So many threads are members from now on, each until it leaves. Called by one of them, while no other is in
 * hr_team_run or hr_team_leave. t may be NULL in all of these: a team that never meets. */
void hr_team_open(hr_team *t, int members);
void hr_team_leave(hr_team *t);
/* hr_wino_run together with the other members, which may have come with samples of their own. False: nothing
 * was done, the caller is on its own. */
bool hr_team_run(hr_team *t, const hr_wino *w, const hr_kernels *k, const float *x, int ns, float *y,
                 const hr_epilogue *e, bool add);

#endif
