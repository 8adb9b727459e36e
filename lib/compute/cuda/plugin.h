/* lib/compute/cuda/plugin.h -- the border between HERACLES and its CUDA plug-in, heracles-cuda.so.
 *
 * What lies on which side. The plug-in is an open device and a table of operations on its memory: it knows
 * numbers, shapes and one stream, but neither networks nor attacks. All that walks over a network and over an
 * attack is plain C in the library, is compiled everywhere, and reaches the device through this table only.
 * So a machine without CUDA builds and tests everything but the plug-in itself, and the plug-in is small
 * enough to be tested operation by operation.
 *
 * Kernels and who queues them lie beside each other, a pair of files per group of operations:
 *
 *     passes      exec.c      products.cu (vendor.cu), elementwise.cu, norm.cu, pool.cu, loss.cu
 *     batches     batch.c     images.cu
 *     training    learn.c     optim.cu, prune.cu
 *     PGD         ascend.c    attack.cu
 *     APGD        climb.c     apgd.cu        (strong.c: what the three have in common)
 *     Square      search.c    square.cu
 *     FAB         border.c    fab.cu
 *
 * Why at this level. compute.h's executor is where attack and train meet a network: forward, backward, and
 * four buffers (images, logits and their gradients). Behind it, weights and activations live on the device.
 * The four buffers have a twin on the host that is brought up to date when the caller asks for the buffer,
 * and not before: code that was written for the CPU runs unchanged, and an attack that stays on the device
 * (ascend.c) moves nothing. One level lower (an operation at a time from the CPU's executor) activations
 * would travel; one level higher (whole training steps) every stage would have to be written twice.
 *
 * The stream. Operations are queued and return nothing. They run one after another in the order of the calls,
 * but for uploads beside the work (stage()), which have a stream of their own.
 * The first thing that goes wrong is kept, everything queued behind it does nothing of use, and wait() tells.
 * Pointers are to device memory unless a comment says otherwise; they belong to take(). Maps are NHWC
 * float32, "rows" are pixels, columns are channels (c); weights are KRSC: (out, kh, kw, in). Scale, shift and
 * the like have one value per column. Where an argument may be NULL the comment says so.
 *
 * Versions. The only symbol looked up is hr_cuda_plugin(). A plug-in whose version or size differs from this
 * header's is refused: both are built from one tree.
 *
 * Determinism. Every sum is taken in an order that depends on the shapes alone, never on the device, so the
 * same call gives the same bits on every device, but for what cuDNN and cuBLAS do (vendor.h).
 *
 * This header is C and C++ and includes nothing of ours. */
#ifndef HR_CUDA_PLUGIN_H
#define HR_CUDA_PLUGIN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { HR_CUDA_VERSION = 8 };

enum {                   /* flags of open() */
       HR_CUDA_FAST = 1, /* cuDNN may choose algorithms that add in any order */
       HR_CUDA_TF32 = 2  /* matrix products with 10 bits of mantissa */
};

typedef struct hr_cuda hr_cuda;             /* an open device: its stream, library handles, work memory */
typedef struct hr_cuda_conv hr_cuda_conv;   /* a convolution whose algorithms were chosen */
typedef struct hr_cuda_graph hr_cuda_graph; /* recorded operations */

typedef struct hr_cuda_conv_shape {
    int ci, co, kh, kw, stride, pad, hin, win, hout, wout;
} hr_cuda_conv_shape;

/* A pooling: windows of kh x kw, or (adaptive) PyTorch's bins of an average pool. */
typedef struct hr_cuda_pool {
    bool max, adaptive;
    int c, hin, win, hout, wout, kh, kw, stride, pad;
} hr_cuda_pool;

/* What keys the noise of image i: (seed, stream, c0, c1, index[i]), as in base.h. */
typedef struct hr_cuda_noise {
    uint32_t seed, stream, c0, c1;
    const uint32_t *index;
} hr_cuda_noise;

/* How images are cut: random crops (pad 0: none) or resized ones, and mirrored half of the time. Noise of
 * image i is keyed (seed, stream, epoch, 0, index[i]), of which the highest bit, which marks other data, does
 * not count. */
typedef struct hr_cuda_augment {
    bool resized, flip;
    int32_t pad;
    uint32_t seed, stream, epoch;
} hr_cuda_augment;

/* hr_cuda_noise where it lies on the device, so that recorded work finds a new one every time: the key, and
 * which turn of a loop this is, from 0. */
typedef struct hr_cuda_turns {
    hr_cuda_noise key;
    uint32_t turn;
} hr_cuda_turns;

/* A batch norm's statistics and what is made of them. gamma and beta may be NULL (1 and 0). */
typedef struct hr_cuda_norm {
    const float *gamma, *beta;
    float *rmean, *rvar; /* running */
    double eps, momentum;
    float *mean, *inv, *scale, *shift; /* out: mean, 1/sqrt(var+eps), and y = z*scale + shift */
} hr_cuda_norm;

enum { HR_CUDA_CE, HR_CUDA_MARGIN, HR_CUDA_KL }; /* losses */
enum { HR_CUDA_TRADES, HR_CUDA_MART };           /* losses of pairs */
enum { HR_CUDA_PARTS = 64 };                     /* partial sums per column, at most */
enum { HR_CUDA_SLOTS = 2 };                      /* of uploads beside the work, and of marks in it */
enum { HR_CUDA_CHOICE = 16448 };                 /* bytes of work memory of keep_largest() */

/* What is cut out of an image: h x w pixels from (y,x), 0 outside; brought to the image's size, mirrored. */
typedef struct hr_cuda_window {
    int32_t y, x, h, w, flip;
} hr_cuda_window;

/* What Auto-PGD remembers of an image besides its points (lib/attack/apgd.c). */
typedef struct hr_cuda_climber {
    double f, best, best_checked; /* loss of the iterate; the best one; the best at the last checkpoint */
    float eta;                    /* the step */
    int32_t rises, halved;        /* since, at the last checkpoint */
    int32_t broken;               /* classified wrongly: it stays where it is */
    int32_t better, back;         /* for the operation behind: the iterate is the best; it goes back there */
} hr_cuda_climber;

typedef struct hr_cuda_shape { /* of an image */
    int32_t h, w, c;
} hr_cuda_shape;

/* The Square attack's squares (lib/attack/square.c): from query begin[k] on, level k's side; at[k]: where in
 * the table of bumps, which the l2 ball has, the one of this side lies. Behind the levels: the starting
 * grid's. */
enum { HR_CUDA_LEVELS = 10 };
typedef struct hr_cuda_squares {
    int32_t levels, begin[HR_CUDA_LEVELS + 1], side[HR_CUDA_LEVELS + 1], at[HR_CUDA_LEVELS + 1];
} hr_cuda_squares;

/* What it remembers of an image besides its points. */
typedef struct hr_cuda_searcher {
    float best;     /* margin */
    int32_t broken; /* the point to try is classified wrongly: it stays where it is */
    int32_t better; /* the point to try is the best */
} hr_cuda_searcher;

/* What FAB remembers of an image besides its points (lib/attack/fab.c). */
typedef struct hr_cuda_walker {
    double best;            /* distance of the nearest point of another class */
    int32_t broken, done;   /* that is within eps; in play no more */
    int32_t across, unused; /* the iterate is of another class */
} hr_cuda_walker;

typedef struct hr_cuda_plugin_table {
    uint32_t version, bytes; /* HR_CUDA_VERSION, sizeof of this struct */

    /* ---- the device (device.cu) */

    /* Open device number `device`. Returns NULL with a sentence in msg: no device, driver too old, ... */
    hr_cuda *(*open)(int device, unsigned flags, char *msg, size_t size);
    void (*close)(hr_cuda *d); /* and give back all that was taken */
    /* Zeroed memory, 256-byte aligned. NULL when there is too little: *left says how many bytes there are. */
    void *(*take)(hr_cuda *d, size_t bytes, size_t *left);
    void *(*take_host)(hr_cuda *d, size_t bytes); /* page-locked memory of the host; NULL: there is none */
    void (*upload)(hr_cuda *d, void *to, const void *from_host, size_t bytes);
    void (*download)(hr_cuda *d, void *to_host, const void *from, size_t bytes);
    /* Upload beside the work, from page-locked memory, to where no work that is queued looks before
     * await(slot): that sees what was uploaded before staged(slot). slot: below HR_CUDA_SLOTS. */
    void (*stage)(hr_cuda *d, void *to, const void *from_host, size_t bytes);
    void (*staged)(hr_cuda *d, int slot);
    void (*await)(hr_cuda *d, int slot);
    void (*copy)(hr_cuda *d, void *to, const void *from, size_t bytes);
    void (*zero)(hr_cuda *d, void *to, size_t bytes);
    /* Wait until all that was queued is done. Returns NULL, or what went wrong first (a string of d's). */
    const char *(*wait)(hr_cuda *d);
    /* mark(slot): note this place in the queue; reach(slot): wait until the work has come there, and no
     * longer. Returns as wait(). slot: below HR_CUDA_SLOTS. */
    void (*mark)(hr_cuda *d, int slot);
    const char *(*reach)(hr_cuda *d, int slot);
    /* What is queued between record() and recorded() is not run but kept; replay() queues it. */
    void (*record)(hr_cuda *d);
    hr_cuda_graph *(*recorded)(hr_cuda *d); /* NULL: trouble, see wait() */
    void (*replay)(hr_cuda *d, hr_cuda_graph *g);
    void (*forget)(hr_cuda *d, hr_cuda_graph *g); /* NULL is allowed */

    /* ---- matrix products (vendor.h) */

    hr_cuda_conv *(*conv_new)(hr_cuda *d, const hr_cuda_conv_shape *s, int batch,
                              bool dw);             /* NULL: trouble */
    void (*conv_free)(hr_cuda *d, hr_cuda_conv *c); /* NULL is allowed */
    void (*conv_forward)(hr_cuda *d, hr_cuda_conv *c, int n, const float *x, const float *w, float *y);
    void (*conv_dx)(hr_cuda *d, hr_cuda_conv *c, int n, const float *dy, const float *w, float *dx, bool add);
    void (*conv_dw)(hr_cuda *d, hr_cuda_conv *c, int n, const float *x, const float *dy, float *dw);
    /* y (n,co) = x (n,ci) w', w (co,ci); dx (+)= dy w; dw = dy' x. */
    void (*dense_forward)(hr_cuda *d, int n, int ci, int co, const float *x, const float *w, float *y);
    void (*dense_dx)(hr_cuda *d, int n, int ci, int co, const float *dy, const float *w, float *dx, bool add);
    void (*dense_dw)(hr_cuda *d, int n, int ci, int co, const float *x, const float *dy, float *dw);

    /* ---- elementwise (elementwise.cu) */

    /* y = z*scale + shift + res, then max(., 0) if relu. scale (1), shift (0), res (0) may be NULL. y may be
     * z. */
    void (*affine)(hr_cuda *d, size_t rows, int c, const float *z, float *y, const float *scale,
                   const float *shift, const float *res, bool relu);
    /* g = y > 0 ? g : 0 (y may be NULL: g); to (+)= g (to may be NULL); g = g*scale (scale may be NULL). */
    void (*back)(hr_cuda *d, size_t rows, int c, float *g, const float *y, float *to, bool add,
                 const float *scale);
    /* out (+)= g*k1 + z*k2 + k3; z may be NULL (then k2 and k3 are not read). out may be g. */
    void (*grad_affine)(hr_cuda *d, size_t rows, int c, const float *g, const float *z, const float *k1,
                        const float *k2, const float *k3, float *out, bool add);
    void (*add)(hr_cuda *d, size_t n, float *to, const float *from); /* to += from */
    /* eff (co,taps,ci) = w (co,ci,taps) * mask (the same; may be NULL), and back: g (co,ci,taps) = dw. */
    void (*weights)(hr_cuda *d, int co, int ci, int taps, const float *w, const float *mask, float *eff);
    void (*weight_grad)(hr_cuda *d, int co, int ci, int taps, const float *dw, float *g);

    /* ---- batch norm (norm.cu). part: 2 * HR_CUDA_PARTS * c doubles of work memory */

    /* From running statistics; bias (may be NULL) is added to what is normalised: a folded convolution's. */
    void (*norm_running)(hr_cuda *d, int c, const float *bias, const hr_cuda_norm *n);
    /* From those of z (rows,c); update: the running ones move, the variance unbiased. */
    void (*norm_batch)(hr_cuda *d, size_t rows, int c, const float *z, bool update, const hr_cuda_norm *n,
                       double *part);
    /* s1 = sum g = dbeta, s2 = sum g*xh = dgamma (either may be NULL), and the gradient through the
     * statistics as an affine map, dz = g*k1 + z*k2 + k3. */
    void (*norm_grad)(hr_cuda *d, size_t rows, int c, const float *g, const float *z, const hr_cuda_norm *n,
                      float *dgamma, float *dbeta, float *k1, float *k2, float *k3, double *part);
    void (*column_sums)(hr_cuda *d, size_t rows, int c, const float *g, float *sum, double *part);

    /* ---- pools (pool.cu): ties and gradients go to the first maximum */

    void (*pool_forward)(hr_cuda *d, const hr_cuda_pool *p, int n, const float *x, float *y);
    void (*pool_dx)(hr_cuda *d, const hr_cuda_pool *p, int n, const float *x, const float *dy, float *dx,
                    bool add);
    /* (n,pixels,c) to PyTorch's (n,c,pixels), and the gradient back. */
    void (*flatten)(hr_cuda *d, int n, int pixels, int c, const float *x, float *y);
    void (*flatten_dx)(hr_cuda *d, int n, int pixels, int c, const float *dy, float *dx, bool add);

    /* ---- images (images.cu) */

    /* The windows (n) of augmentation o, as lib/data draws them; those of resized crops go through pow in
     * double: the CPU's but where two libraries' last bits in it fall on both sides of a half. */
    void (*windows)(hr_cuda *d, const hr_cuda_augment *o, int n, int h, int w, const uint32_t *index,
                    hr_cuda_window *windows);
    /* x (n,h,w,c) = pixels (n,h,w,c) / 255, cut by windows (n), with the CPU's bits. */
    void (*cut)(hr_cuda *d, int n, int h, int w, int c, const uint8_t *pixels, const hr_cuda_window *windows,
                float *x);

    /* ---- losses (loss.cu), as lib/compute/loss.c and lib/attack state them */

    /* loss (n doubles) and dz may be NULL; target (n,classes) is of HR_CUDA_KL, which leaves loss alone. */
    void (*loss)(hr_cuda *d, int kind, int n, int classes, const float *z, const int32_t *y,
                 const float *target, float scale, double *loss, float *dz);
    /* Of images and attacked copies, logits zn and za: loss (n) in full, dzn and dza scale * its gradients.
     */
    void (*loss_pair)(hr_cuda *d, int kind, int n, int classes, const float *zn, const float *za,
                      const int32_t *y, double beta, float scale, double *loss, float *dzn, float *dza);

    /* *count = of how many of n images the logits z name the class y; NaNs name none. */
    void (*right)(hr_cuda *d, int n, int classes, const float *z, const int32_t *y, double *count);

    /* loss (n) = -DLR(z, y), towards class aim where that is not -1, and dz its gradient. */
    void (*dlr)(hr_cuda *d, int n, int classes, const float *z, const int32_t *y, const int32_t *aim,
                double *loss, float *dz);
    /* aim (n): the class that ranks so (from 1) among all but y; ties go to the lower class. rank 0: -1. */
    void (*rank)(hr_cuda *d, int n, int classes, const float *z, const int32_t *y, int rank, int32_t *aim);

    /* ---- attacks (attack.cu), n images of len values */

    /* adv = x + U(-eps, eps), with the CPU's bits. */
    void (*start_uniform)(hr_cuda *d, const hr_cuda_noise *k, int n, size_t len, float eps, const float *x,
                          float *adv);
    /* adv = x + N(0, std^2); x may be NULL (0). */
    void (*start_normal)(hr_cuda *d, const hr_cuda_noise *k, int n, size_t len, float std, const float *x,
                         float *adv);
    /* adv = clip(clip(adv + step*sign(g), x-eps, x+eps), 0, 1), with the CPU's bits. */
    void (*move_linf)(hr_cuda *d, size_t values, float step, float eps, const float *x, const float *g,
                      float *adv);
    /* A loop's first turn, with this key; and the next one. */
    void (*turns_start)(hr_cuda *d, const hr_cuda_noise *k, hr_cuda_turns *t);
    void (*turns_next)(hr_cuda *d, hr_cuda_turns *t);
    /* adv = x + the step along g/|g| cut to [0,1] and scaled back into the ball; where |g| is 0, along N(0,1)
     * keyed by t, whose turn is added to c1. g is overwritten. */
    void (*move_l2)(hr_cuda *d, const hr_cuda_turns *t, int n, size_t len, float step, float eps,
                    const float *x, float *g, float *adv);

    /* Free adversarial training's noise, with the CPU's bits: adv = clip(x + noise, 0, 1); and, where that
     * was not cut, noise = clip(noise + eps*sign(g), -eps, eps). */
    void (*noise_add)(hr_cuda *d, size_t values, const float *x, const float *noise, float *adv);
    void (*noise_move)(hr_cuda *d, size_t values, float eps, const float *x, const float *g, float *noise);

    /* ---- Auto-PGD (apgd.cu), as lib/attack/apgd.c states it: n images of len values, c their climbers */

    /* at = old = a point on the ball's surface, cut to [0,1], and climbers that have seen nothing. */
    void (*apgd_start)(hr_cuda *d, const hr_cuda_noise *k, int n, size_t len, bool l2, float eps,
                       const float *x, float *at, float *old, hr_cuda_climber *c);
    /* Take note of the iterates' losses f and logits z; first: of the starting points'. */
    void (*apgd_look)(hr_cuda *d, int n, int classes, bool first, const float *z, const int32_t *y,
                      const double *f, hr_cuda_climber *c);
    /* The iterates that are the best so far, and their gradients, to top and g_top. */
    void (*apgd_keep)(hr_cuda *d, int n, size_t len, const hr_cuda_climber *c, const float *at,
                      const float *g, float *top, float *g_top);
    /* The next iterates; momentum 1 - a. */
    void (*apgd_step)(hr_cuda *d, int n, size_t len, bool l2, float eps, float a, const hr_cuda_climber *c,
                      const float *x, const float *g, float *at, float *old);
    /* The rule of a checkpoint, `steps` steps behind the last one. */
    void (*apgd_checkpoint)(hr_cuda *d, int n, size_t len, float rho, int steps, hr_cuda_climber *c,
                            const float *top, const float *g_top, float *at, float *g);

    /* ---- the Square attack (square.cu), as lib/attack/square.c states it. bumps NULL: l-inf, with the CPU's
     * bits */

    /* The starting points, and searchers that have seen nothing. */
    void (*square_start)(hr_cuda *d, const hr_cuda_turns *t, const hr_cuda_squares *table, const float *bumps,
                         int n, const hr_cuda_shape *m, float eps, const float *x, float *next,
                         hr_cuda_searcher *s);
    /* The points that this turn's query tries; work: as much as next. */
    void (*square_try)(hr_cuda *d, const hr_cuda_turns *t, const hr_cuda_squares *table, const float *bumps,
                       int n, const hr_cuda_shape *m, float eps, const float *x, const hr_cuda_searcher *s,
                       const float *best, float *next, float *work);
    /* Take note of their logits; those that are better go to best. */
    void (*square_look)(hr_cuda *d, const hr_cuda_turns *t, int n, size_t len, int classes, const float *z,
                        const int32_t *y, hr_cuda_searcher *s, const float *next, float *best);

    /* ---- FAB (fab.cu), as lib/attack/fab.c states it: n images of len values, s their walkers */

    /* at = x, or (random) a point at distance eps/2 or less, and walkers that have seen nothing. */
    void (*fab_start)(hr_cuda *d, const hr_cuda_noise *k, bool random, int n, size_t len, bool l2, float eps,
                      const float *x, float *at, hr_cuda_walker *s);
    /* dz = the gradient of z_aim - z_y. */
    void (*fab_aim)(hr_cuda *d, int n, int classes, const int32_t *y, const int32_t *aim, float *dz);
    /* The next iterates, from logits z and gradients g; most: alpha's bound. */
    void (*fab_approach)(hr_cuda *d, int n, size_t len, int classes, bool l2, float most, float eta,
                         const float *z, const int32_t *y, const int32_t *aim, const float *x, const float *g,
                         const hr_cuda_walker *s, float *at);
    /* Take note of their logits; those that are across step back, and go to points where they are the nearest
     * ones within eps; whole: and stay in play. */
    void (*fab_look)(hr_cuda *d, int n, size_t len, int classes, bool l2, bool whole, float eps, float beta,
                     const float *z, const int32_t *y, const float *x, hr_cuda_walker *s, float *at,
                     float *points);

    /* ---- optimisers (optim.cu), as lib/train states them */

    void (*sgd)(hr_cuda *d, size_t n, float *p, const float *g, float *buf, float lr, float momentum,
                float decay, bool nesterov, bool first);
    void (*adam)(hr_cuda *d, size_t n, float *p, const float *g, float *m, float *v, float lr, float decay,
                 int64_t step);
    void (*rmsprop)(hr_cuda *d, size_t n, float *p, const float *g, float *v, float *buf, float lr,
                    float momentum, float decay);

    /* ---- scores, masks, ADMM (prune.cu), as lib/train and lib/prune state them. Weights are (co,ci,taps),
     * torch's layout; what belongs to input channels has ci values */

    /* chosen = 1 for the `kept` (from 1 to n) values of largest magnitude, else 0; ties go to the lower
     * index; NaN is less than any number. n < 2^32; work: HR_CUDA_CHOICE bytes. The CPU's bits. */
    void (*keep_largest)(hr_cuda *d, size_t n, const float *v, size_t kept, void *work, float *chosen);
    void (*mask_expand)(hr_cuda *d, int co, int ci, int taps, const float *chosen, float *mask);
    /* l2 norm of every input channel. */
    void (*channel_norms)(hr_cuda *d, int co, int ci, int taps, const float *w, float *norms);
    /* g = sign(s) * dw * w, summed over the input channel where scores belong to channels. */
    void (*score_grad)(hr_cuda *d, bool channel, int co, int ci, int taps, const float *dw, const float *w,
                       const float *s, float *g);
    void (*masked_grad)(hr_cuda *d, size_t n, const float *dw, const float *mask, float *g);
    /* g = dw + rho * (w - z + u). */
    void (*admm_grad)(hr_cuda *d, size_t n, const float *dw, const float *w, const float *z, const float *u,
                      float rho, float *g);
    /* z = what is chosen (by channel, or one by one) of v, 0 elsewhere; u (may be NULL, may be v) -= z. */
    void (*split)(hr_cuda *d, bool channel, int co, int ci, int taps, const float *chosen, const float *v,
                  float *z, float *u);
} hr_cuda_plugin_table;

/* The plug-in's only symbol. */
typedef const hr_cuda_plugin_table *hr_cuda_plugin_fn(void);
__attribute__((visibility("default"))) const hr_cuda_plugin_table *hr_cuda_plugin(void);

#ifdef __cplusplus
}
#endif
#endif
