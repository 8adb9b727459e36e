/* test/shim/shim.cpp -- memory, the stream and the threads behind test/shim/cuda_runtime.h.
 *
 * Environment, for tests: HERACLES_SHIM_DEVICES=N (1), HERACLES_SHIM_DRIVER=VERSION (13000: too old below
 * that, 0: none), HERACLES_SHIM_MEMORY=BYTES that the device has, HERACLES_SHIM_SEED=N of all orders.
 *
 * Threads. A kernel without dynamic shared memory may not synchronise: its threads are plain calls, in
 * ascending, descending or shuffled order, drawn for each block; blocks come shuffled. With shared memory a
 * block's threads are contexts (ucontext) that take turns: each runs to its next __syncthreads, all that are
 * left meet there, and the next round has an order of its own. A thread that leaves while others wait is a
 * fault of the kernel. */
#include "cuda_runtime.h"
#include "vendor_queue.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>
#include <numeric>
#include <random>
#include <ucontext.h>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#define POISON(p, n) ASAN_POISON_MEMORY_REGION(p, n)
#define UNPOISON(p, n) ASAN_UNPOISON_MEMORY_REGION(p, n)
#else
#define POISON(p, n) ((void)(p), (void)(n))
#define UNPOISON(p, n) ((void)(p), (void)(n))
#endif

dim3 blockIdx, blockDim, gridDim, threadIdx;

enum { SHARED = 48 * 1024, STACK = 128 * 1024, GUARD = 64, GUARD_BYTE = 0xA5 };
alignas(256) double hr_shared[SHARED / sizeof(double)];

[[noreturn]] static void fault(const char *what)
{
    fprintf(stderr, "shim: %s\n", what);
    abort();
}

static long setting(const char *name, long otherwise)
{
    const char *v = getenv(name);
    return v ? strtol(v, nullptr, 10) : otherwise;
}

static std::mt19937 &dice()
{
    static std::mt19937 d((unsigned)setting("HERACLES_SHIM_SEED", 1));
    return d;
}

/* ---- the device ---------------------------------------------------------------------------------------- */

const char *cudaGetErrorString(cudaError_t rc)
{
    return rc == cudaErrorMemoryAllocation ? "out of memory"
           : rc == cudaErrorInvalidValue   ? "invalid argument"
           : rc == cudaSuccess             ? "no error"
                                           : "no device";
}

cudaError_t cudaGetLastError()
{
    return cudaSuccess;
}

cudaError_t cudaDriverGetVersion(int *version)
{
    *version = (int)setting("HERACLES_SHIM_DRIVER", 13000);
    return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int *version)
{
    *version = 13000;
    return cudaSuccess;
}

cudaError_t cudaGetDeviceCount(int *n)
{
    int driver;
    cudaDriverGetVersion(&driver);
    *n = (int)setting("HERACLES_SHIM_DEVICES", 1);
    return driver < 13000 ? cudaErrorInsufficientDriver : *n == 0 ? cudaErrorNoDevice : cudaSuccess;
}

cudaError_t cudaSetDevice(int)
{
    return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp *prop, int)
{
    *prop = {"shim", 12, 0, 1};
    return cudaSuccess;
}

/* ---- memory -------------------------------------------------------------------------------------------- */

/* Fresh memory holds NaNs. Behind it lies a guard that the sanitizer, or cudaFree, looks at. */
struct room {
    size_t bytes;
    bool host;
};
static std::map<void *, room> rooms;
static size_t in_use;

static size_t memory()
{
    return (size_t)setting("HERACLES_SHIM_MEMORY", 4L << 30);
}

cudaError_t cudaMemGetInfo(size_t *left, size_t *all)
{
    *all = memory();
    *left = *all > in_use ? *all - in_use : 0;
    return cudaSuccess;
}

static void *fresh(size_t bytes, bool host)
{
    void *p = nullptr;
    if (posix_memalign(&p, 256, bytes + GUARD))
        return nullptr;
    memset(p, 0xFF, bytes);
    memset((char *)p + bytes, GUARD_BYTE, GUARD);
    POISON((char *)p + bytes, GUARD);
    rooms[p] = {bytes, host};
    return p;
}

cudaError_t cudaMalloc(void **p, size_t bytes)
{
    if (in_use + bytes > memory() || !(*p = fresh(bytes, false)))
        return cudaErrorMemoryAllocation;
    in_use += bytes;
    return cudaSuccess;
}

cudaError_t cudaMallocHost(void **p, size_t bytes)
{
    return (*p = fresh(bytes, true)) ? cudaSuccess : cudaErrorMemoryAllocation;
}

static cudaError_t release(void *p, bool host)
{
    auto r = rooms.find(p);
    if (r == rooms.end() || r->second.host != host)
        fault("memory is freed that was not allocated");
    const unsigned char *guard = (const unsigned char *)p + r->second.bytes;
    UNPOISON(guard, GUARD);
    for (int i = 0; i < GUARD; i++)
        if (guard[i] != GUARD_BYTE)
            fault("something was written behind a piece of memory");
    if (!host)
        in_use -= r->second.bytes;
    rooms.erase(r);
    free(p);
    return cudaSuccess;
}

cudaError_t cudaFree(void *p)
{
    return release(p, false);
}

cudaError_t cudaFreeHost(void *p)
{
    return release(p, true);
}

/* Does [p,p+bytes) lie in memory of this kind? */
static bool lies_in(const void *p, size_t bytes, bool host)
{
    auto r = rooms.upper_bound((void *)p);
    if (r == rooms.begin())
        return false;
    --r;
    return r->second.host == host && (const char *)p + bytes <= (const char *)r->first + r->second.bytes;
}

/* ---- the stream ---------------------------------------------------------------------------------------- */

struct shim_graph {
    std::vector<std::function<void()>> work;
};
struct shim_stream {
    std::deque<std::function<void()>> queue;
    shim_graph *capture;
};
static std::vector<cudaStream_t> streams;

/* What was asked for so far, for tests: bytes up, bytes down, waits of the host, calls that queue anything
 * (a graph's launch is one); waits that may have left the device without work; and bytes up while another
 * stream had some. */
enum { UP, DOWN, WAITS, CALLS, DRY, BESIDE, COUNTS };
static size_t counts[COUNTS];

extern "C" __attribute__((visibility("default"))) void shim_counts(size_t now[COUNTS])
{
    memcpy(now, counts, sizeof counts);
}

void shim_queue(cudaStream_t s, std::function<void()> work)
{
    counts[CALLS] += !s->capture;
    if (s->capture)
        s->capture->work.push_back(std::move(work));
    else
        s->queue.push_back(std::move(work));
}

extern "C" void shim_queue_call(void *stream, void (*fn)(void *arg), const void *arg, size_t bytes)
{
    std::vector<char> kept((const char *)arg, (const char *)arg + bytes);
    shim_queue((cudaStream_t)stream, [=]() mutable { fn(kept.data()); });
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, cudaMemcpyKind kind, cudaStream_t s)
{
    if ((kind != cudaMemcpyDeviceToHost && !lies_in(to, bytes, false)) ||
        (kind != cudaMemcpyHostToDevice && !lies_in(from, bytes, false)))
        fault("a copy leaves the device's memory");
    if (kind != cudaMemcpyDeviceToDevice)
        counts[kind == cudaMemcpyDeviceToHost ? DOWN : UP] += bytes;
    for (cudaStream_t other : streams)
        if (kind == cudaMemcpyHostToDevice && other != s && !other->queue.empty())
            counts[BESIDE] += bytes;
    if (kind == cudaMemcpyHostToDevice && !lies_in(from, bytes, true)) { /* ordinary memory is read at once */
        std::vector<char> kept((const char *)from, (const char *)from + bytes);
        shim_queue(s, [=] { memcpy(to, kept.data(), bytes); });
        return cudaSuccess;
    }
    shim_queue(s, [=] { memmove(to, from, bytes); });
    return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void *to, int value, size_t bytes, cudaStream_t s)
{
    if (!lies_in(to, bytes, false))
        fault("a fill leaves the device's memory");
    shim_queue(s, [=] { memset(to, value, bytes); });
    return cudaSuccess;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *s, unsigned)
{
    *s = new shim_stream();
    streams.push_back(*s);
    return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t s)
{
    streams.erase(std::find(streams.begin(), streams.end(), s));
    delete s;
    return cudaSuccess;
}

/* The next piece of work; what it waits for is done first. */
static void advance(cudaStream_t s)
{
    if (s->queue.empty())
        fault("a stream waits for what nobody will do");
    auto work = std::move(s->queue.front());
    s->queue.pop_front();
    work();
}

cudaError_t cudaStreamSynchronize(cudaStream_t s)
{
    if (s->capture)
        return cudaErrorInvalidValue;
    counts[WAITS]++;
    counts[DRY]++;
    while (!s->queue.empty()) {
        for (cudaStream_t other : streams)
            while (other != s && !other->queue.empty() && dice()() % 2)
                advance(other);
        if (!s->queue.empty()) /* which the others' may have needed */
            advance(s);
    }
    return cudaSuccess;
}

/* The last time that it was recorded, as a number, and the last one that its stream came to. */
struct shim_event {
    cudaStream_t stream;
    unsigned long recorded, reached;
};

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *e, unsigned)
{
    *e = new shim_event();
    return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t e)
{
    delete e;
    return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t s)
{
    unsigned long mark = ++e->recorded;
    e->stream = s;
    shim_queue(s, [=] { e->reached = mark; });
    return cudaSuccess;
}

/* The host may come back late: the device has gone on. */
cudaError_t cudaEventSynchronize(cudaEvent_t e)
{
    counts[WAITS]++;
    while (e->reached < e->recorded)
        advance(e->stream);
    counts[DRY] += e->stream && e->stream->queue.empty();
    while (e->stream && !e->stream->queue.empty() && dice()() % 16)
        advance(e->stream);
    return cudaSuccess;
}

cudaError_t cudaStreamWaitEvent(cudaStream_t s, cudaEvent_t e, unsigned)
{
    cudaStream_t other = e->stream;
    unsigned long mark = e->recorded;
    shim_queue(s, [=] {
        while (e->reached < mark)
            advance(other);
    });
    return cudaSuccess;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t s, cudaStreamCaptureMode)
{
    s->capture = new shim_graph();
    return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t s, cudaGraph_t *g)
{
    *g = s->capture;
    s->capture = nullptr;
    return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *exec, cudaGraph_t g, unsigned long long)
{
    *exec = new shim_graph(*g);
    return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t s)
{
    s->queue.insert(s->queue.end(), exec->work.begin(), exec->work.end());
    counts[CALLS]++;
    return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec)
{
    delete exec;
    return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t g)
{
    delete g;
    return cudaSuccess;
}

/* ---- blocks and threads -------------------------------------------------------------------------------- */

static dim3 place_in(dim3 size, unsigned i)
{
    return dim3(i % size.x, i / size.x % size.y, i / size.x / size.y);
}

static std::vector<unsigned> order_of(unsigned n)
{
    std::vector<unsigned> order(n);
    std::iota(order.begin(), order.end(), 0u);
    unsigned how = dice()() % 3;
    if (how == 1)
        std::reverse(order.begin(), order.end());
    if (how == 2)
        std::shuffle(order.begin(), order.end(), dice());
    return order;
}

/* Sanitizers know swapcontext, but it asks the kernel for the signal mask every time. The compiler's own
 * jumps do not. */
#if defined(__SANITIZE_ADDRESS__)
struct spot {
    ucontext_t context;
};

static void hop(spot *from, spot *to)
{
    swapcontext(&from->context, &to->context);
}
#else
struct spot {
    ucontext_t context; /* to begin with */
    bool begun;
    void *jump[5];
};

static __attribute__((noinline)) void leap(spot *to)
{
    if (to->begun)
        __builtin_longjmp(to->jump, 1);
    to->begun = true;
    setcontext(&to->context);
}

static __attribute__((noinline)) void hop(spot *from, spot *to)
{
    from->begun = true;
    if (!__builtin_setjmp(from->jump))
        leap(to);
}
#endif

struct fiber {
    spot at;
    std::vector<char> stack;
    bool done;
};
static std::deque<fiber> fibers; /* which stay where they are */
static spot scheduler;
static fiber *running;
static const std::function<void()> *body;

void __syncthreads()
{
    if (!running)
        fault("a kernel without dynamic shared memory synchronises");
    hop(&running->at, &scheduler);
}

/* A context lives as long as the program and takes one thread after another. */
static void enter()
{
    for (;;) {
        (*body)();
        running->done = true;
        hop(&running->at, &scheduler);
    }
}

/* The block's threads as contexts, meeting by meeting. */
static void run_together(unsigned threads, const std::function<void()> &thread)
{
    body = &thread;
    while (fibers.size() < threads) {
        fibers.emplace_back(); /* zeroed */
        fiber &f = fibers.back();
        f.stack.resize(STACK);
        ucontext_t &context = f.at.context;
        getcontext(&context);
        context.uc_stack.ss_sp = f.stack.data();
        context.uc_stack.ss_size = STACK;
        context.uc_link = nullptr;
        makecontext(&context, enter, 0);
    }
    for (unsigned i = 0; i < threads; i++)
        fibers[i].done = false;
    for (unsigned done = 0; done < threads;) {
        done = 0;
        for (unsigned i : order_of(threads)) {
            running = &fibers[i];
            threadIdx = place_in(blockDim, i);
            hop(&scheduler, &running->at);
            done += running->done;
        }
        running = nullptr;
        if (done != 0 && done != threads)
            fault("some threads of a block left while others wait for them");
    }
}

void shim_run(const cudaLaunchConfig_t &config, const std::function<void()> &thread)
{
    unsigned blocks = config.gridDim.x * config.gridDim.y * config.gridDim.z;
    unsigned threads = config.blockDim.x * config.blockDim.y * config.blockDim.z;
    gridDim = config.gridDim;
    blockDim = config.blockDim;
    std::vector<unsigned> order(blocks);
    std::iota(order.begin(), order.end(), 0u);
    std::shuffle(order.begin(), order.end(), dice());
    for (unsigned b : order) {
        blockIdx = place_in(gridDim, b);
        if (config.dynamicSmemBytes) {
            memset(hr_shared, 0xFF, sizeof hr_shared);
            POISON((char *)hr_shared + config.dynamicSmemBytes, SHARED - config.dynamicSmemBytes);
            run_together(threads, thread);
            UNPOISON(hr_shared, SHARED);
            continue;
        }
        for (unsigned i : order_of(threads)) {
            threadIdx = place_in(blockDim, i);
            thread();
        }
    }
}
