/* lib/compute/cpu/wino.h -- 3x3 convolutions of stride 1 by Winograd's algorithm (wino.c explains it). All
 * calls work on `ns` samples, NHWC, on the calling thread. */
#ifndef HR_COMPUTE_CPU_WINO_H
#define HR_COMPUTE_CPU_WINO_H

#include "compute/cpu/kernels.h"

typedef struct hr_wino {
    int m, t, points; /* output tile, input tile t = m+2, points = t*t */
    int ci, co;       /* channels read, channels written */
    size_t in_len, out_len;
    int tiles;                 /* per sample */
    int32_t *in_off, *out_off; /* (tiles, points), (tiles, m*m) offsets of pixels in a sample, or -1 */
    int panel, block;          /* columns of a packed panel; tiles worked on at a time */
    size_t ldv, ldm;           /* a tile's row in the two tile buffers */
    size_t v_step, m_step;     /* from one point to the next in them */
    size_t u_step;
    bool wide;    /* the weights are far larger than a core's caches */
    float *u;     /* transformed weights [points][co/panel][ci][panel] */
    int group;    /* samples, of hr_wino_gather */
    size_t bytes; /* memory that the plan took */
} hr_wino;

/* Multiplications per pair of channels and sample that F(m x m, 3x3) takes for an h x w map. */
int64_t hr_wino_cost(int m, int h, int w);

/* Plan a 3x3 convolution of stride 1 from ci x hin x win to co x hout x wout with padding pad (0, 1 or 2). */
void hr_wino_plan(hr_wino *w, const hr_kernels *k, int m, int ci, int hin, int win, int co, int hout,
                  int wout, int pad);
void hr_wino_release(hr_wino *w);
/* Transform weights: g (co,ci,3,3) in torch layout; with `flip` g is (ci,co,3,3) and turned around: the
 * convolution is then the gradient to the input of the one whose weights are g. */
void hr_wino_pack(hr_wino *w, const hr_kernels *k, const float *g, bool flip);
/* Bytes of scratch that a thread needs for hr_wino_run. */
size_t hr_wino_scratch(const hr_wino *w);
/* y (ns,hout,wout,co) (+)= conv(x (ns,hin,win,ci)), then the epilogue. */
void hr_wino_run(const hr_wino *w, const hr_kernels *k, const float *x, int ns, float *y,
                 const hr_epilogue *e, bool add, void *scratch);

/* The same for a crew of threads that brings `rows` tiles together, 1..HR_WINO_SHARED_ROWS: each its own
 * samples, whose tiles are those from `at` on. With a barrier between the three:
 *   1. hr_wino_shared_in        transforms x (ns,hin,win,ci)
 *   2. hr_wino_shared_multiply  multiplies points [p0,p1) of w->points, of all tiles
 *   3. hr_wino_shared_out       y (ns,hout,wout,co) (+)= what came out, then the epilogue */
enum { HR_WINO_SHARED_ROWS = 128 };
size_t hr_wino_shared_room(const hr_wino *w, int rows); /* floats */
void hr_wino_shared_in(const hr_wino *w, const hr_kernels *k, const float *x, int ns, int at, int rows,
                       float *room);
void hr_wino_shared_multiply(const hr_wino *w, const hr_kernels *k, int rows, int p0, int p1, float *room);
void hr_wino_shared_out(const hr_wino *w, const hr_kernels *k, int ns, int at, int rows, float *room,
                        float *y, const hr_epilogue *e, bool add);

/* ---- gradient to the weights of the convolution that w was planned for (not flipped) ----------------------
 */

/* Bytes of scratch that a thread needs for hr_wino_dw. */
size_t hr_wino_dw_scratch(const hr_wino *w);
/* part (9*ci, co), rows [tap][ci] = the gradient over ns samples: x (ns,hin,win,ci), dy (ns,hout,wout,co). */
void hr_wino_dw(const hr_wino *w, const hr_kernels *k, const float *x, const float *dy, int ns, float *part,
                void *scratch);

/* The same in two steps for a crew of threads, which share room for a group of samples (w->group; the
 * gradients are added up group by group, so its size is part of what the bits depend on):
 *   1. hr_wino_gather   transforms samples [at, at+ns) of a group
 *   2. hr_wino_block    sums block `number` of hr_wino_blocks(w), some channels by some channels, over a
 * group of n samples, and puts its part into grad (co,ci,3,3), torch layout; `add`: to what is there with a
 * barrier between them. */
/* Samples of a group for batches of so many: what w->group is to be. Whole HR_CHUNKs, or the batch. */
int hr_wino_group(const hr_wino *w, int batch);
size_t hr_wino_room(const hr_wino *w); /* floats, once w->group is set */
void hr_wino_gather(const hr_wino *w, const hr_kernels *k, const float *x, const float *dy, int at, int ns,
                    float *room);
int hr_wino_blocks(const hr_wino *w);
size_t hr_wino_block_scratch(const hr_wino *w, const hr_kernels *k); /* bytes, per thread */
void hr_wino_block(const hr_wino *w, const hr_kernels *k, int number, int n, bool add, float *room,
                   void *scratch, float *grad);

#endif
