/* test/unit/test_strong.c -- AutoAttack's parts where the truth is known: on a linear network an image is
 * robust if and only if every margin is more than eps times the dual norm of the difference of two rows. */
#include "nets.h"

#include "attack/internal.h"
#include "train/train.h"

enum { C = 2, H = 6, W = 7, LEN = C * H * W, N = 37, CLASSES = 5 };

struct images {
    float x[N * LEN], adv[N * LEN], norm[N]; /* NHWC */
    int32_t y[N];
    uint32_t index[N];
    uint8_t broken[N];
};

static hr_exec *new_exec(hr_model *m, int batch, int threads)
{
    hr_err err = HR_ERR_INIT;
    hr_exec_opts o = {.batch = batch, .threads = threads, .device = test_device()};
    hr_exec *e = hr_exec_new(m, &o, &err);
    if (!e)
        fail_msg("%s", err.msg);
    return e;
}

static hr_model *linear_net(void)
{
    hr_model *m = net_new(C, H, W);
    net_done(m, net_linear(m, net_flatten(m, 0), CLASSES, NET_BIAS), 3);
    return m;
}

static hr_model *deep_net(void)
{
    hr_model *m = net_new(C, H, W);
    int a = net_relu(m, net_bn(m, net_conv(m, 0, 6, 3, 3, 1, 1, NET_NO_BIAS)));
    int b = net_relu(m, net_bn(m, net_conv(m, a, 8, 3, 3, 2, 1, NET_NO_BIAS)));
    net_done(m, net_linear(m, net_flatten(m, b), CLASSES, NET_BIAS), 7);
    return m;
}

/* Images in [lo,hi], each with the label that the network gives it. */
static void fill(struct images *im, hr_model *m, float lo, float hi)
{
    memset(im, 0, sizeof *im);
    hr_exec *e = new_exec(m, N, 1);
    hr_fill_uniform(im->x, N * LEN, lo, hi, 3, HR_STREAM_TEST, 0, 0, 0);
    memcpy(hr_exec_input(e), im->x, sizeof im->x);
    hr_exec_infer(e, N);
    hr_argmax(hr_exec_logits(e), 0, N, CLASSES, im->y);
    for (int i = 0; i < N; i++)
        im->index[i] = (uint32_t)(900 - 7 * i);
    hr_exec_free(e);
}

static hr_strong_opts opts(enum hr_norm norm, float eps, int target)
{
    return (hr_strong_opts){.norm = norm,
                            .eps = eps,
                            .steps = 50,
                            .loss = HR_STRONG_DLR,
                            .target = target,
                            .random_start = true,
                            .rho = HR_APGD_RHO,
                            .alpha = HR_FAB_ALPHA,
                            .eta = HR_FAB_ETA,
                            .beta = HR_FAB_BETA,
                            .p = HR_SQUARE_P,
                            .seed = 5,
                            .stream = HR_STREAM_TEST,
                            .c0 = 1,
                            .c1 = 2};
}

/* Distance of image i to the nearest border of the linear network m, and to that of the class ranked `rank`.
 */
static double border(const hr_model *m, const struct images *im, int i, enum hr_norm norm, int rank)
{
    const float *w = hr_tensor_f32(&m->tensors[0]), *b = hr_tensor_f32(&m->tensors[1]);
    double z[CLASSES], far[CLASSES], nearest = INFINITY;
    int y = im->y[i], order[CLASSES], n = 0;
    for (int k = 0; k < CLASSES; k++) {
        z[k] = b[k];
        for (int c = 0; c < C; c++) /* weights are in CHW order */
            for (int p = 0; p < H * W; p++)
                z[k] += (double)w[k * LEN + c * H * W + p] * im->x[i * LEN + p * C + c];
    }
    for (int k = 0; k < CLASSES; k++) {
        double one = 0, two = 0;
        for (int p = 0; p < LEN; p++) {
            double d = (double)w[y * LEN + p] - w[k * LEN + p];
            one += fabs(d);
            two += d * d;
        }
        far[k] = (z[y] - z[k]) / (norm == HR_L2 ? sqrt(two) : one);
        if (k != y) {
            int at = n++;
            for (; at > 0 && z[order[at - 1]] < z[k]; at--)
                order[at] = order[at - 1];
            order[at] = k;
            nearest = fmin(nearest, far[k]);
        }
    }
    return rank ? far[order[rank - 1]] : nearest;
}

/* A radius with about half of the images on either side and none within 1 % of it. */
static float radius(const hr_model *m, const struct images *im, enum hr_norm norm)
{
    double d[N];
    for (int i = 0; i < N; i++) {
        double v = border(m, im, i, norm, 0);
        int at = i;
        for (; at > 0 && d[at - 1] > v; at--)
            d[at] = d[at - 1];
        d[at] = v;
    }
    for (int i = N / 2; i < N; i++)
        if (d[i] > 1.03 * d[i - 1])
            return (float)sqrt(d[i] * d[i - 1]);
    fail_msg("no gap");
    return 0;
}

static void test_dlr_is_its_formula_and_its_gradient_is_its_slope(void **state)
{
    (void)state;
    static const float z[][CLASSES] = {
        {2, -1, 0.5f, 1.25f, -3}, {-0.5f, 4, 3, 1, 2}, {0.1f, 0.2f, 0.3f, 0.45f, 0}};
    /* by hand: sorted 2, 1.25, 0.5, -1, -3 */
    assert_near(hr_loss_dlr(z[0], CLASSES, 0, -1, NULL), -(2 - 1.25) / (2 - 0.5), 1e-9);
    assert_near(hr_loss_dlr(z[0], CLASSES, 2, -1, NULL), -(0.5 - 2) / (2 - 0.5), 1e-9);
    assert_near(hr_loss_dlr(z[0], CLASSES, 0, 4, NULL), -(2 + 3) / (2 - 0.5 * (0.5 - 1)), 1e-9);
    for (size_t k = 0; k < HR_COUNT(z); k++)
        for (int y = 0; y < CLASSES; y++)
            for (int target = -1; target < CLASSES; target++) {
                float dz[CLASSES], scaled[CLASSES], near[CLASSES];
                if (target == y)
                    continue;
                double loss = hr_loss_dlr(z[k], CLASSES, y, target, dz);
                for (int c = 0; c < CLASSES; c++)
                    scaled[c] = 1000 * z[k][c] + 17;
                assert_near(hr_loss_dlr(scaled, CLASSES, y, target, NULL), loss, 1e-5 * (1 + fabs(loss)));
                for (int c = 0; c < CLASSES; c++) {
                    const float h = 0x1p-9f; /* the logits lie further apart */
                    memcpy(near, z[k], sizeof near);
                    near[c] = z[k][c] + h;
                    double up = hr_loss_dlr(near, CLASSES, y, target, NULL);
                    near[c] = z[k][c] - h;
                    double slope = (up - hr_loss_dlr(near, CLASSES, y, target, NULL)) / (2 * (double)h);
                    assert_near(dz[c], slope, 1e-3 * (1 + fabs(slope))); /* third derivatives, h squared */
                }
            }
}

static void test_classes_are_ranked_with_ties_to_the_lower_one(void **state)
{
    (void)state;
    static const float z[] = {5, 3, 2, 3, 0};
    static const int want[] = {1, 3, 2, 4};
    for (int r = 1; r <= 4; r++)
        assert_int_equal(hr_rank_class(z, 5, 0, r), want[r - 1]);
}

/* The step to a plane: on it, within the box, and no shorter one is: the length that bisection needs. */
static void test_projection_is_the_shortest_step_to_the_plane_in_the_box(void **state)
{
    (void)state;
    enum { DIM = 43 }; /* no whole number of vectors */
    int reached = 0, faces = 0;
    for (uint32_t k = 0; k < 200; k++) {
        float x[DIM], w[DIM], d[DIM], u[1];
        hr_fill_uniform(x, DIM, 0, 1, 1, HR_STREAM_TEST, 1, k, 0);
        hr_fill_normal(w, DIM, 0, 1, 1, HR_STREAM_TEST, 2, k, 0);
        hr_fill_uniform(u, 1, -20, 20, 1, HR_STREAM_TEST, 3, k, 0);
        w[3] = 0;
        for (int norm = HR_LINF; norm <= HR_L2; norm++) {
            hr_project_plane(norm, x, w, u[0], DIM, d);
            double moved = 0, most = 0, length = 0;
            bool face = false;
            for (int p = 0; p < DIM; p++) {
                moved += (double)w[p] * d[p];
                most += fabs((double)w[p]) * ((w[p] > 0) == (u[0] >= 0) ? 1.0 - x[p] : x[p]);
                length = norm == HR_L2 ? length + (double)d[p] * d[p] : fmax(length, fabs((double)d[p]));
                assert_true(x[p] + d[p] >= -1e-6f && x[p] + d[p] <= 1 + 1e-6f);
                face |= x[p] + d[p] < 1e-6f || x[p] + d[p] > 1 - 1e-6f;
            }
            assert_true(d[3] == 0);
            length = norm == HR_L2 ? sqrt(length) : length;
            if (most < fabs((double)u[0])) { /* out of reach: the corner */
                assert_near(fabs(moved), most, 1e-5);
                continue;
            }
            reached++;
            faces += face;
            assert_near(moved, (double)u[0], 1e-5); /* 43 products of float */
            /* how far must each pixel be allowed to go? */
            double lo = 0, hi = 1e6;
            for (int turn = 0; turn < 200; turn++) {
                double mid = (lo + hi) / 2, sum = 0;
                for (int p = 0; p < DIM; p++) {
                    double a = fabs((double)w[p]);
                    sum += a *
                           fmin(mid * (norm == HR_L2 ? a : 1), (w[p] > 0) == (u[0] >= 0) ? 1.0 - x[p] : x[p]);
                }
                *(sum < fabs((double)u[0]) ? &lo : &hi) = mid;
            }
            double want = 0;
            for (int p = 0; p < DIM; p++) {
                double a = fabs((double)w[p]), room = (w[p] > 0) == (u[0] >= 0) ? 1.0 - x[p] : x[p];
                double far = a == 0 ? 0 : fmin(hi * (norm == HR_L2 ? a : 1), room);
                want = norm == HR_L2 ? want + far * far : fmax(want, far);
            }
            assert_near(length, norm == HR_L2 ? sqrt(want) : want, 1e-5);
        }
    }
    assert_true(reached > 200 && faces > 50);
}

static void test_targeted_attacks_break_what_can_be_broken_and_nothing_else(void **state)
{
    (void)state;
    static struct images im;
    hr_model *m = linear_net();
    fill(&im, m, 0.3f, 0.7f); /* so that the pixel range plays no part */
    hr_exec *e = new_exec(m, N, 2);
    static hr_strong_attack *const attacks[] = {hr_attack_apgd, hr_attack_fab};
    for (size_t k = 0; k < HR_COUNT(attacks); k++)
        for (int norm = HR_LINF; norm <= HR_L2; norm++) {
            float eps = radius(m, &im, norm);
            memset(im.broken, 0, sizeof im.broken);
            for (int target = 1; target < CLASSES; target++) {
                hr_strong_opts o = opts(norm, eps, target);
                attacks[k](e, &o, im.x, im.y, im.index, N, im.broken, im.adv, NULL);
            }
            int broken = 0;
            for (int i = 0; i < N; i++) {
                assert_int_equal(im.broken[i], border(m, &im, i, norm, 0) < (double)eps);
                broken += im.broken[i];
            }
            assert_true(broken > N / 4 && broken < 3 * N / 4 + 1);
        }
    hr_exec_free(e);
    hr_model_free(m);
}

static void test_fab_finds_the_distance_to_the_border(void **state)
{
    (void)state;
    static struct images im;
    hr_model *m = linear_net();
    fill(&im, m, 0.4f, 0.6f);
    hr_exec *e = new_exec(m, N, 2);
    for (int norm = HR_LINF; norm <= HR_L2; norm++)
        for (int target = 1; target < CLASSES; target++) {
            float eps = radius(m, &im, norm);
            hr_strong_opts o = opts(norm, eps, target);
            o.random_start = false;
            o.whole = true;
            memset(im.broken, 0, sizeof im.broken);
            hr_attack_fab(e, &o, im.x, im.y, im.index, N, im.broken, im.adv, im.norm);
            for (int i = 0; i < N; i++) {
                double near = border(m, &im, i, norm, 0), aimed = border(m, &im, i, norm, target);
                assert_int_equal(im.broken[i], (double)im.norm[i] <= (double)eps);
                assert_true(im.norm[i] >= near * (1 - 1e-5)); /* of any class, for it counts as wrong too */
                assert_true(im.norm[i] <= aimed * 1.051);     /* the first step goes 5 % too far */
            }
        }
    hr_exec_free(e);
    hr_model_free(m);
}

/* The loss is highest at one point inside the ball, top: class 1 wins where the mean of |x_p - top_p| is less
 * than eps/32. A step that stays at 2 eps leaps from corner to corner of the ball; 100 steps have 8
 * checkpoints, and 5 halvings bring the step to eps/16. */
static void test_apgd_halves_its_step_until_it_reaches_a_top_inside_the_ball(void **state)
{
    (void)state;
    enum { STEPS = 100 };
    static struct images im;
    const float eps = 0.1f;
    hr_model *m = net_new(C, H, W);
    int kinks = net_relu(m, net_linear(m, net_flatten(m, 0), 2 * LEN, NET_BIAS));
    net_done(m, net_linear(m, kinks, CLASSES, NET_BIAS), 3);
    float *w = hr_tensor_f32(&m->tensors[0]), *b = hr_tensor_f32(&m->tensors[1]);
    float *w2 = hr_tensor_f32(&m->tensors[2]), *b2 = hr_tensor_f32(&m->tensors[3]);
    memset(w, 0, 2 * LEN * LEN * sizeof *w);
    memset(w2, 0, CLASSES * 2 * LEN * sizeof *w2);
    for (int p = 0; p < LEN; p++) {
        float top = 0.5f + eps * (0.1f + 0.08f * (float)(p % 7)); /* as many ways to leap past it */
        w[(2 * p) * LEN + p] = 1.0f;
        b[2 * p] = -top;
        w[(2 * p + 1) * LEN + p] = -1.0f;
        b[2 * p + 1] = top;
        w2[2 * p] = w2[2 * p + 1] = 1.0f; /* class 0: the sum of distances */
    }
    for (int c = 0; c < CLASSES; c++)
        b2[c] = c == 0 ? 0.0f : c == 1 ? LEN * eps / 32.0f : -10.0f;
    memset(&im, 0, sizeof im);
    for (int p = 0; p < N * LEN; p++)
        im.x[p] = 0.5f;
    for (int i = 0; i < N; i++)
        im.index[i] = (uint32_t)i;
    hr_exec *e = new_exec(m, N, 2);
    for (int loss = HR_STRONG_CE; loss <= HR_STRONG_DLR; loss++) {
        hr_strong_opts o = opts(HR_LINF, eps, 0);
        o.steps = STEPS;
        o.loss = (enum hr_strong_loss)loss;
        memset(im.broken, 0, sizeof im.broken);
        hr_attack_apgd(e, &o, im.x, im.y, im.index, N, im.broken, im.adv, NULL);
        for (int i = 0; i < N; i++)
            assert_true(im.broken[i]);
    }
    hr_exec_free(e);
    hr_model_free(m);
}

/* The steps of a short run are the first ones of a long one, so what more steps find is never farther away.
 */
static void test_fab_keeps_the_nearest_point_not_the_last(void **state)
{
    (void)state;
    static struct images im;
    static const int steps[] = {2, 3, 4, 5, 6, 8, 11, 15, 20, 30};
    hr_model *m = deep_net();
    fill(&im, m, 0.0f, 1.0f);
    hr_exec *e = new_exec(m, N, 2);
    for (int norm = HR_LINF; norm <= HR_L2; norm++) {
        float nearest[N];
        for (int i = 0; i < N; i++)
            nearest[i] = INFINITY;
        for (size_t k = 0; k < HR_COUNT(steps); k++) {
            hr_strong_opts o = opts(norm, norm == HR_L2 ? 1.2f : 0.15f, 1);
            o.random_start = false;
            o.whole = true;
            o.steps = steps[k];
            memset(im.broken, 0, sizeof im.broken);
            hr_attack_fab(e, &o, im.x, im.y, im.index, N, im.broken, im.adv, im.norm);
            for (int i = 0; i < N; i++) {
                assert_true(im.norm[i] <= nearest[i]);
                nearest[i] = im.norm[i];
            }
        }
    }
    hr_exec_free(e);
    hr_model_free(m);
}

/* What every attack promises, on a network with kinks and at the edge of the pixel range. */
static void test_points_are_in_the_ball_and_wrong_and_others_are_left_alone(void **state)
{
    (void)state;
    static struct images im;
    static hr_strong_attack *const attacks[] = {hr_attack_apgd, hr_attack_fab, hr_attack_square};
    hr_model *m = deep_net();
    fill(&im, m, 0, 1);
    hr_exec *e = new_exec(m, N, 2);
    for (size_t k = 0; k < HR_COUNT(attacks); k++)
        for (int norm = HR_LINF; norm <= HR_L2; norm++) {
            hr_strong_opts o = opts(norm, norm == HR_L2 ? 1.2f : 0.15f, attacks[k] == hr_attack_fab);
            memset(im.adv, 0, sizeof im.adv);
            memset(im.broken, 0, sizeof im.broken);
            im.broken[4] = im.broken[20] = 1;
            attacks[k](e, &o, im.x, im.y, im.index, N, im.broken, im.adv, NULL);
            int32_t pred[N], found = 0;
            memcpy(hr_exec_input(e), im.adv, sizeof im.adv);
            hr_exec_infer(e, N);
            hr_argmax(hr_exec_logits(e), 0, N, CLASSES, pred);
            for (int i = 0; i < N; i++) {
                double far = 0;
                bool zero = true;
                for (int p = i * LEN; p < (i + 1) * LEN; p++) {
                    double d = fabs((double)im.adv[p] - im.x[p]);
                    far = norm == HR_L2 ? far + d * d : fmax(far, d);
                    zero &= im.adv[p] == 0;
                    assert_true(im.adv[p] >= 0 && im.adv[p] <= 1);
                }
                if (!im.broken[i] || i == 4 || i == 20) {
                    assert_true(zero);
                    continue;
                }
                found++;
                assert_true(pred[i] != im.y[i]);
                /* rounded to float once, a length by 84 such errors */
                assert_true((norm == HR_L2 ? sqrt(far) : far) <=
                            (double)o.eps + (norm == HR_L2 ? 1e-6 : 1e-7));
            }
            assert_true(found >= N / 3);
        }
    hr_exec_free(e);
    hr_model_free(m);
}

static void test_outcomes_do_not_depend_on_batch_or_threads(void **state)
{
    (void)state;
    static struct images im;
    static float want[N * LEN];
    static hr_strong_attack *const attacks[] = {hr_attack_apgd, hr_attack_fab, hr_attack_square};
    static const struct {
        int batch, threads;
    } cases[] = {{N, 1}, {N, 4}, {1, 1}, {5, 2}, {16, 2}};
    hr_model *m = deep_net();
    fill(&im, m, 0, 1);
    for (size_t k = 0; k < HR_COUNT(attacks); k++)
        for (int norm = HR_LINF; norm <= HR_L2; norm++)
            for (size_t c = 0; c < HR_COUNT(cases); c++) {
                hr_strong_opts o = opts(norm, norm == HR_L2 ? 0.8f : 0.1f, attacks[k] == hr_attack_fab);
                o.steps = 20;
                hr_exec *e = new_exec(m, cases[c].batch, cases[c].threads);
                memset(im.adv, 0, sizeof im.adv);
                memset(im.broken, 0, sizeof im.broken);
                for (int at = 0; at < N; at += cases[c].batch) {
                    int n = N - at < cases[c].batch ? N - at : cases[c].batch;
                    attacks[k](e, &o, im.x + at * LEN, im.y + at, im.index + at, n, im.broken + at,
                               im.adv + at * LEN, NULL);
                }
                if (c == 0)
                    memcpy(want, im.adv, sizeof want);
                assert_memory_equal(im.adv, want, sizeof want);
                hr_exec_free(e);
            }
    hr_model_free(m);
}

/* A data set of the images that im holds, every seventh with a wrong label. */
static hr_dataset as_dataset(const struct images *im)
{
    hr_dataset ds = {.n = N, .c = C, .h = H, .w = W, .classes = CLASSES};
    ds.pixels = hr_xmalloc(N * LEN);
    ds.labels = hr_xmalloc(N * sizeof *ds.labels);
    ds.index = hr_xmalloc(N * sizeof *ds.index);
    for (int p = 0; p < N * LEN; p++)
        ds.pixels[p] = (uint8_t)(255 * im->x[p]);
    for (int i = 0; i < N; i++) {
        ds.labels[i] = (im->y[i] + (i % 7 == 0)) % CLASSES;
        ds.index[i] = (uint32_t)i;
    }
    memset(ds.digest, 'd', 64);
    return ds;
}

static int parse(hr_eval_attack *list, const char *names, double eps, int restarts)
{
    hr_err err = HR_ERR_INIT;
    int n;
    hr_eval_opts o = HR_EVAL_OPTS;
    o.eps = eps;
    o.restarts = restarts;
    o.iterations = 20;
    o.queries = 30;
    o.seed = 2;
    assert_ok(hr_eval_parse(list, &n, names, &o, &err), err);
    return n;
}

static void test_cascade_is_the_worst_case_of_its_parts(void **state)
{
    (void)state;
    static struct images im;
    hr_model *m = deep_net();
    fill(&im, m, 0, 1);
    hr_dataset ds = as_dataset(&im);
    hr_eval_attack list[HR_MAX_ATTACKS];
    hr_exec *e = new_exec(m, 16, 2);
    int n = parse(list, "apgd-ce,apgd-t,fab-t,square,aa", 0.03, 1);
    assert_int_equal(hr_eval_rounds(&list[1], CLASSES), 1 + 4); /* 9 targets, but 4 other classes */
    assert_int_equal(hr_eval_rounds(&list[4], CLASSES), 1 + 1 + 4 + 4 + 1);
    bool every[N], at_all[N];
    hr_eval_work w[5];
    for (int k = 0; k < n; k++) {
        w[k] = hr_eval_work_new(N);
        while (!hr_eval_finished(&w[k], &list[k], CLASSES, N))
            assert_int_equal(hr_eval_step(e, k == 4 ? 7 : 16, &ds, &list[k], &w[k]), HR_OK);
    }
    uint32_t first = 0, second = 0, robust = 0;
    for (int i = 0; i < N; i++) {
        at_all[i] = w[0].correct[i];
        every[i] = true;
        for (int k = 0; k < 4; k++)
            every[i] &= w[k].correct[i];
        assert_int_equal(w[4].correct[i], every[i]);
        /* who broke it is the first that can */
        for (int k = 0; k < 4 && !every[i]; k++)
            if (!w[k].correct[i]) {
                assert_int_equal(w[4].by[i], w[k].by[i] == 0 ? 0 : k + 1);
                break;
            }
        first += at_all[i];
        second += at_all[i] && w[1].correct[i];
        robust += every[i];
    }
    hr_eval_result r = hr_eval_result_of(&ds, &w[4]);
    assert_int_equal(r.images, N);
    assert_int_equal(r.correct, robust);
    assert_int_equal(r.after[0], first);
    assert_int_equal(r.after[1], second);
    assert_int_equal(r.after[3], robust);
    assert_true(robust < first && robust > 0); /* else nothing was tested */
    for (int k = 0; k < n; k++)
        hr_eval_work_release(&w[k]);
    hr_exec_free(e);
    hr_model_free(m);
    hr_dataset_release(&ds);
}

static void test_restarts_of_a_part_can_only_break_more(void **state)
{
    (void)state;
    static struct images im;
    hr_model *m = deep_net();
    fill(&im, m, 0, 1);
    hr_dataset ds = as_dataset(&im);
    hr_eval_attack one[HR_MAX_ATTACKS], more[HR_MAX_ATTACKS];
    hr_exec *e = new_exec(m, 16, 1);
    parse(one, "square", 0.03, 1);
    parse(more, "square,aa", 0.03, 4);
    assert_int_equal(more[1].strong.restarts, 1); /* the standard sequence has one */
    hr_eval_result a = hr_eval_run(e, 16, &ds, &one[0]), b = hr_eval_run(e, 16, &ds, &more[0]);
    assert_true(b.correct < a.correct);
    hr_exec_free(e);
    hr_model_free(m);
    hr_dataset_release(&ds);
}

static void test_networks_with_too_few_classes_are_refused(void **state)
{
    (void)state;
    hr_eval_attack list[HR_MAX_ATTACKS];
    parse(list, "apgd-ce,apgd-dlr,apgd-t,fab-t,square,aa", 0.03, 1);
    static const int least[] = {2, 3, 4, 2, 2, 4};
    for (size_t k = 0; k < HR_COUNT(least); k++) {
        hr_err err = HR_ERR_INIT;
        assert_int_equal(hr_eval_fits(&list[k], least[k], &err), HR_OK);
        assert_int_equal(hr_eval_fits(&list[k], least[k] - 1, &err), HR_EINVAL);
        assert_non_null(strstr(err.msg, list[k].name));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_dlr_is_its_formula_and_its_gradient_is_its_slope),
        cmocka_unit_test(test_classes_are_ranked_with_ties_to_the_lower_one),
        cmocka_unit_test(test_projection_is_the_shortest_step_to_the_plane_in_the_box),
        cmocka_unit_test(test_targeted_attacks_break_what_can_be_broken_and_nothing_else),
        cmocka_unit_test(test_fab_finds_the_distance_to_the_border),
        cmocka_unit_test(test_apgd_halves_its_step_until_it_reaches_a_top_inside_the_ball),
        cmocka_unit_test(test_fab_keeps_the_nearest_point_not_the_last),
        cmocka_unit_test(test_points_are_in_the_ball_and_wrong_and_others_are_left_alone),
        cmocka_unit_test(test_outcomes_do_not_depend_on_batch_or_threads),
        cmocka_unit_test(test_cascade_is_the_worst_case_of_its_parts),
        cmocka_unit_test(test_restarts_of_a_part_can_only_break_more),
        cmocka_unit_test(test_networks_with_too_few_classes_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
