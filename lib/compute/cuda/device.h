/* lib/compute/cuda/device.h -- what the plug-in's files share: the open device, launching, shared memory.
 *
 * Every .cu file holds kernels, the function that queues each of them, and one fill function that puts these
 * into the plug-in's table. Kernels are launched with launch() alone, which keeps the first error.
 *
 * Above every kernel stands its grid ("a thread per value": 256 threads a block, at most eight blocks per
 * multiprocessor; "a block per image": hr_threads_of), its memory traffic (floats read and written per value,
 * unless another unit is named) and what is expected to bound its speed.
 *
 * A kernel that works on n independent values walks over them with a grid's stride (EACH): its result does
 * not depend on the grid. A kernel whose threads meet (__syncthreads) asks for dynamic shared memory; no
 * other does.
 */
#ifndef HR_CUDA_DEVICE_H
#define HR_CUDA_DEVICE_H

#include <cuda_runtime.h>

#include "plugin.h"
#include "vendor.h"

struct hr_cuda {
    int number;
    cudaStream_t stream, beside; /* all work; uploads beside it */
    cudaEvent_t staged[HR_CUDA_SLOTS], marks[HR_CUDA_SLOTS];
    int blocks; /* of an elementwise kernel, at most: eight per multiprocessor */
    hr_vendor *vendor;
    void *work; /* of convolutions: they run one after another */
    size_t work_bytes;
    struct hr_cuda_taken *taken; /* all that take() and take_host() gave */
    char trouble[256];           /* the first thing that went wrong, or "" */
};

/* Keep what went wrong, unless something did before. */
void hr_cuda_note(hr_cuda *d, const char *what, const char *why);
static inline void hr_cuda_check(hr_cuda *d, cudaError_t rc, const char *what)
{
    if (rc != cudaSuccess)
        hr_cuda_note(d, what, cudaGetErrorString(rc));
}

enum { HR_THREADS = 256 };

static inline dim3 hr_grid(const hr_cuda *d, size_t n)
{
    size_t blocks = (n + HR_THREADS - 1) / HR_THREADS;
    return dim3((unsigned)(blocks < (size_t)d->blocks ? (blocks ? blocks : 1) : (size_t)d->blocks));
}

/* Threads of a block that works on an image of len values and meets: a power of two, for block_sum. */
static inline unsigned hr_threads_of(size_t len)
{
    unsigned threads = 32;
    while (threads < HR_THREADS && 4 * threads < len)
        threads *= 2;
    return threads;
}

/* Queue a kernel. shared: bytes of dynamic shared memory; not 0 for those that synchronise. */
template <class... P, class... A>
static void launch(hr_cuda *d, const char *name, dim3 grid, dim3 block, size_t shared, void (*kernel)(P...),
                   A... a)
{
    cudaLaunchConfig_t config = {};
    config.gridDim = grid;
    config.blockDim = block;
    config.dynamicSmemBytes = shared;
    config.stream = d->stream;
    hr_cuda_check(d, cudaLaunchKernelEx(&config, kernel, static_cast<P>(a)...), name);
}

/* launch() for n independent values. */
template <class... P, class... A>
static void launch_each(hr_cuda *d, const char *name, size_t n, void (*kernel)(P...), A... a)
{
    if (n)
        launch(d, name, hr_grid(d, n), dim3(HR_THREADS), 0, kernel, a...);
}

#define EACH(i, n)                                                                                           \
    for (size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x; i < (n);                                  \
         i += (size_t)gridDim.x * blockDim.x)

/* The block's dynamic shared memory. */
extern __shared__ double hr_shared[];

/* Sum of v over a block of `threads` (a power of two) threads, in a tree; every thread gets it. */
static __device__ inline double block_sum(double v, unsigned me, unsigned threads)
{
    hr_shared[me] = v;
    __syncthreads();
    for (unsigned half = threads / 2; half > 0; half /= 2) {
        if (me < half)
            hr_shared[me] += hr_shared[me + half];
        __syncthreads();
    }
    double sum = hr_shared[0];
    __syncthreads();
    return sum;
}

/* The largest of v over a block, as block_sum adds it. */
static __device__ inline double block_largest(double v, unsigned me, unsigned threads)
{
    hr_shared[me] = v;
    __syncthreads();
    for (unsigned half = threads / 2; half > 0; half /= 2) {
        if (me < half && hr_shared[me + half] > hr_shared[me])
            hr_shared[me] = hr_shared[me + half];
        __syncthreads();
    }
    double most = hr_shared[0];
    __syncthreads();
    return most;
}

/* block_sum of two numbers at once; 16 bytes of shared memory per thread. */
static __device__ inline void block_sums(double *a, double *b, unsigned me, unsigned threads)
{
    hr_shared[me] = *a;
    hr_shared[threads + me] = *b;
    __syncthreads();
    for (unsigned half = threads / 2; half > 0; half /= 2) {
        if (me < half) {
            hr_shared[me] += hr_shared[me + half];
            hr_shared[threads + me] += hr_shared[threads + me + half];
        }
        __syncthreads();
    }
    *a = hr_shared[0];
    *b = hr_shared[threads];
    __syncthreads();
}

void hr_cuda_fill_elementwise(hr_cuda_plugin_table *t);
void hr_cuda_fill_norm(hr_cuda_plugin_table *t);
void hr_cuda_fill_pool(hr_cuda_plugin_table *t);
void hr_cuda_fill_loss(hr_cuda_plugin_table *t);
void hr_cuda_fill_attack(hr_cuda_plugin_table *t);
void hr_cuda_fill_apgd(hr_cuda_plugin_table *t);
void hr_cuda_fill_square(hr_cuda_plugin_table *t);
void hr_cuda_fill_fab(hr_cuda_plugin_table *t);
void hr_cuda_fill_optim(hr_cuda_plugin_table *t);
void hr_cuda_fill_prune(hr_cuda_plugin_table *t);
void hr_cuda_fill_images(hr_cuda_plugin_table *t);
void hr_cuda_fill_products(hr_cuda_plugin_table *t);

#endif
