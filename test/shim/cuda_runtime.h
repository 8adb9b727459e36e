/* test/shim/cuda_runtime.h -- what lib/compute/cuda/ *.cu need of CUDA's header of this name, in plain C++.
 *
 * The plug-in's sources are compiled against this header by an ordinary compiler and linked with shim.cpp and
 * vendor.c: the same kernels and the same host code then run on the CPU. What that proves and what not:
 *   - every index, every formula, every sum, every bound of every array (guarded memory, sanitizers);
 *   - that no result depends on the order of blocks, or of threads between two meetings (both are shuffled);
 *   - that the host waits where it must: a stream's work is only done when someone waits for it, and
 *     page-locked memory is read as late as that; and that one stream waits for another where it must:
 * between any two pieces of a stream's work, as many as the dice say of every other stream's are done;
 *   - that recorded work can be replayed: it is kept as calls and run again.
 *   Not: that a device's compiler and hardware do the same, cuDNN's and cuBLAS's behaviour, and speed. */
#ifndef HR_SHIM_CUDA_RUNTIME_H
#define HR_SHIM_CUDA_RUNTIME_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>

#include <string.h>

#include <algorithm>
#include <functional>

#define __global__
#define __device__
#define __shared__

using std::min;

struct dim3 {
    unsigned x, y, z;
    dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_)
    {
    }
};
extern dim3 blockIdx, blockDim, gridDim, threadIdx;
void __syncthreads();

/* Threads run one at a time. */
static inline unsigned atomicAdd(unsigned *at, unsigned v)
{
    unsigned old = *at;
    *at = old + v;
    return old;
}
static inline unsigned __float_as_uint(float f)
{
    unsigned u;
    memcpy(&u, &f, sizeof u);
    return u;
}

enum cudaError_t {
    cudaSuccess = 0,
    cudaErrorInvalidValue = 1,
    cudaErrorMemoryAllocation = 2,
    cudaErrorInsufficientDriver = 35,
    cudaErrorNoDevice = 100
};
enum cudaMemcpyKind { cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost, cudaMemcpyDeviceToDevice };
enum cudaStreamCaptureMode { cudaStreamCaptureModeThreadLocal };
enum { cudaStreamNonBlocking = 1, cudaEventDisableTiming = 2 };
struct cudaDeviceProp {
    char name[256];
    int major, minor, multiProcessorCount;
};
struct shim_stream;
struct shim_graph;
struct shim_event;
typedef shim_stream *cudaStream_t;
typedef shim_event *cudaEvent_t;
typedef shim_graph *cudaGraph_t, *cudaGraphExec_t;
struct cudaLaunchConfig_t {
    dim3 gridDim, blockDim;
    size_t dynamicSmemBytes;
    cudaStream_t stream;
};

const char *cudaGetErrorString(cudaError_t rc);
cudaError_t cudaGetLastError();
cudaError_t cudaGetDeviceCount(int *n);
cudaError_t cudaDriverGetVersion(int *version);
cudaError_t cudaRuntimeGetVersion(int *version);
cudaError_t cudaSetDevice(int number);
cudaError_t cudaGetDeviceProperties(cudaDeviceProp *prop, int number);
cudaError_t cudaMemGetInfo(size_t *left, size_t *all);
cudaError_t cudaMalloc(void **p, size_t bytes);
cudaError_t cudaFree(void *p);
cudaError_t cudaMallocHost(void **p, size_t bytes);
cudaError_t cudaFreeHost(void *p);
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, cudaMemcpyKind kind, cudaStream_t s);
cudaError_t cudaMemsetAsync(void *to, int value, size_t bytes, cudaStream_t s);
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *s, unsigned flags);
cudaError_t cudaStreamDestroy(cudaStream_t s);
cudaError_t cudaStreamSynchronize(cudaStream_t s);
cudaError_t cudaStreamWaitEvent(cudaStream_t s, cudaEvent_t e, unsigned flags);
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *e, unsigned flags);
cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t s);
cudaError_t cudaEventSynchronize(cudaEvent_t e);
cudaError_t cudaEventDestroy(cudaEvent_t e);
cudaError_t cudaStreamBeginCapture(cudaStream_t s, cudaStreamCaptureMode mode);
cudaError_t cudaStreamEndCapture(cudaStream_t s, cudaGraph_t *g);
cudaError_t cudaGraphInstantiate(cudaGraphExec_t *exec, cudaGraph_t g, unsigned long long flags);
cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t s);
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec);
cudaError_t cudaGraphDestroy(cudaGraph_t g);

/* Queue work; run a kernel's threads, one call of `thread` each. */
void shim_queue(cudaStream_t s, std::function<void()> work);
void shim_run(const cudaLaunchConfig_t &config, const std::function<void()> &thread);

template <class... P, class... A>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t *config, void (*kernel)(P...), A... a)
{
    cudaLaunchConfig_t c = *config;
    if (c.gridDim.x * c.gridDim.y * c.gridDim.z == 0 || c.blockDim.x * c.blockDim.y * c.blockDim.z > 1024 ||
        c.gridDim.y > 65535 || c.dynamicSmemBytes > 48 * 1024)
        return cudaErrorInvalidValue;
    shim_queue(c.stream, [=] { shim_run(c, [=] { kernel(a...); }); });
    return cudaSuccess;
}

#endif
