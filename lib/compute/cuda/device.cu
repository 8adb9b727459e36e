/* lib/compute/cuda/device.cu -- the open device: memory, streams, recorded work; and the plug-in's symbol.
 *
 * One stream takes all work, so that operations need no events between them; one beside it takes the uploads
 * of the next batch. Memory is zeroed once, when it
 * is taken. Recorded work is a CUDA graph: launching a step of an attack, hundreds of small kernels, then
 * costs one call. */
#include "device.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>

struct hr_cuda_taken {
    void *p;
    bool host;
    hr_cuda_taken *next;
};

struct hr_cuda_graph {
    cudaGraph_t graph;
    cudaGraphExec_t exec;
};

void hr_cuda_note(hr_cuda *d, const char *what, const char *why)
{
    if (!d->trouble[0])
        snprintf(d->trouble, sizeof d->trouble, "%s: %s", what, why);
}

/* Why there is no device to open, or 0. */
static int refuse(int number, char *msg, size_t size)
{
    int devices = 0, driver = 0, runtime = 0;
    cudaError_t rc = cudaGetDeviceCount(&devices);
    cudaDriverGetVersion(&driver);
    cudaRuntimeGetVersion(&runtime);
    if (rc == cudaErrorInsufficientDriver && driver > 0)
        return snprintf(msg, size, "the driver is too old: it knows CUDA %d.%d, this plug-in needs %d.%d",
                        driver / 1000, driver % 1000 / 10, runtime / 1000, runtime % 1000 / 10);
    if (rc == cudaErrorNoDevice || rc == cudaErrorInsufficientDriver || (rc == cudaSuccess && devices == 0))
        return snprintf(msg, size, "no device was found (%s)",
                        driver ? "the driver knows none" : "there is no NVIDIA driver");
    if (rc != cudaSuccess)
        return snprintf(msg, size, "%s", cudaGetErrorString(rc));
    if (number >= devices)
        return snprintf(msg, size, "there is no device %d, the driver knows %d", number, devices);
    return 0;
}

/* The stream of all work, the one beside it, and the events between them; trouble is noted in d. */
static void open_streams(hr_cuda *d)
{
    hr_cuda_check(d, cudaStreamCreateWithFlags(&d->stream, cudaStreamNonBlocking), "a stream");
    hr_cuda_check(d, cudaStreamCreateWithFlags(&d->beside, cudaStreamNonBlocking), "a stream");
    for (int i = 0; i < HR_CUDA_SLOTS; i++)
        for (cudaEvent_t *e : {&d->staged[i], &d->marks[i]})
            hr_cuda_check(d, cudaEventCreateWithFlags(e, cudaEventDisableTiming), "an event");
}

static void close_streams(hr_cuda *d)
{
    for (int i = 0; i < HR_CUDA_SLOTS; i++)
        for (cudaEvent_t e : {d->staged[i], d->marks[i]})
            if (e)
                cudaEventDestroy(e);
    if (d->beside)
        cudaStreamDestroy(d->beside);
    if (d->stream)
        cudaStreamDestroy(d->stream);
}

static hr_cuda *open_device(int number, unsigned flags, char *msg, size_t size)
{
    cudaDeviceProp prop;
    const char *what = nullptr;
    if (refuse(number, msg, size))
        return nullptr;
    hr_cuda *d = (hr_cuda *)calloc(1, sizeof *d);
    if (!d) {
        snprintf(msg, size, "no memory");
        return nullptr;
    }
    cudaError_t rc = cudaSetDevice(number);
    if (rc == cudaSuccess)
        rc = cudaGetDeviceProperties(&prop, number);
    if (rc != cudaSuccess)
        snprintf(msg, size, "%s", cudaGetErrorString(rc));
    else if (prop.major * 10 + prop.minor < 75)
        snprintf(msg, size, "%s has compute capability %d.%d, 7.5 is the least", prop.name, prop.major,
                 prop.minor);
    else
        open_streams(d);
    if (d->trouble[0])
        snprintf(msg, size, "%s", d->trouble);
    else if (d->stream && !(d->vendor = hr_vendor_open(d->stream, flags, &what)))
        snprintf(msg, size, "%s", what);
    if (!d->vendor) {
        close_streams(d);
        free(d);
        return nullptr;
    }
    d->number = number;
    d->blocks = 8 * prop.multiProcessorCount;
    return d;
}

static void close_device(hr_cuda *d)
{
    cudaStreamSynchronize(d->stream);
    cudaStreamSynchronize(d->beside);
    for (hr_cuda_taken *t = d->taken, *next; t; t = next) {
        next = t->next;
        if (t->host)
            cudaFreeHost(t->p);
        else
            cudaFree(t->p);
        free(t);
    }
    if (d->work)
        cudaFree(d->work);
    hr_vendor_close(d->vendor);
    close_streams(d);
    free(d);
}

static void *keep(hr_cuda *d, void *p, bool host)
{
    hr_cuda_taken *t = (hr_cuda_taken *)malloc(sizeof *t);
    if (!t) {
        hr_cuda_note(d, "memory", "the host has none left");
        return nullptr;
    }
    *t = {p, host, d->taken};
    d->taken = t;
    return p;
}

static void *take(hr_cuda *d, size_t bytes, size_t *left)
{
    void *p = nullptr;
    size_t all;
    cudaError_t rc = cudaMalloc(&p, bytes ? bytes : 1);
    if (rc != cudaSuccess) {
        cudaGetLastError(); /* not of interest to what is queued */
        if (cudaMemGetInfo(left, &all) != cudaSuccess)
            *left = 0;
        return nullptr;
    }
    hr_cuda_check(d, cudaMemsetAsync(p, 0, bytes ? bytes : 1, d->stream), "memory");
    return keep(d, p, false);
}

static void *take_host(hr_cuda *d, size_t bytes)
{
    void *p = nullptr;
    if (cudaMallocHost(&p, bytes ? bytes : 1) != cudaSuccess) {
        cudaGetLastError();
        return nullptr;
    }
    memset(p, 0, bytes ? bytes : 1);
    return keep(d, p, true);
}

static void upload(hr_cuda *d, void *to, const void *from_host, size_t bytes)
{
    hr_cuda_check(d, cudaMemcpyAsync(to, from_host, bytes, cudaMemcpyHostToDevice, d->stream), "upload");
}

static void download(hr_cuda *d, void *to_host, const void *from, size_t bytes)
{
    hr_cuda_check(d, cudaMemcpyAsync(to_host, from, bytes, cudaMemcpyDeviceToHost, d->stream), "download");
}

static void stage(hr_cuda *d, void *to, const void *from_host, size_t bytes)
{
    hr_cuda_check(d, cudaMemcpyAsync(to, from_host, bytes, cudaMemcpyHostToDevice, d->beside), "stage");
}

static void staged(hr_cuda *d, int slot)
{
    hr_cuda_check(d, cudaEventRecord(d->staged[slot], d->beside), "staged");
}

static void await(hr_cuda *d, int slot)
{
    hr_cuda_check(d, cudaStreamWaitEvent(d->stream, d->staged[slot], 0), "await");
}

static void copy(hr_cuda *d, void *to, const void *from, size_t bytes)
{
    hr_cuda_check(d, cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, d->stream), "copy");
}

static void zero(hr_cuda *d, void *to, size_t bytes)
{
    hr_cuda_check(d, cudaMemsetAsync(to, 0, bytes, d->stream), "zero");
}

static const char *wait(hr_cuda *d)
{
    hr_cuda_check(d, cudaStreamSynchronize(d->stream), "the device");
    return d->trouble[0] ? d->trouble : nullptr;
}

static void mark(hr_cuda *d, int slot)
{
    hr_cuda_check(d, cudaEventRecord(d->marks[slot], d->stream), "mark");
}

static const char *reach(hr_cuda *d, int slot)
{
    hr_cuda_check(d, cudaEventSynchronize(d->marks[slot]), "the device");
    return d->trouble[0] ? d->trouble : nullptr;
}

static void record(hr_cuda *d)
{
    hr_cuda_check(d, cudaStreamBeginCapture(d->stream, cudaStreamCaptureModeThreadLocal), "recording");
}

static hr_cuda_graph *recorded(hr_cuda *d)
{
    hr_cuda_graph *g = (hr_cuda_graph *)calloc(1, sizeof *g);
    cudaGraph_t graph = nullptr;
    hr_cuda_check(d, cudaStreamEndCapture(d->stream, &graph), "recording");
    if (!g)
        hr_cuda_note(d, "recording", "the host has no memory left");
    else
        g->graph = graph;
    if (!d->trouble[0])
        hr_cuda_check(d, cudaGraphInstantiate(&g->exec, graph, 0), "recording");
    if (!d->trouble[0])
        return g;
    if (graph)
        cudaGraphDestroy(graph);
    free(g);
    return nullptr;
}

static void replay(hr_cuda *d, hr_cuda_graph *g)
{
    hr_cuda_check(d, cudaGraphLaunch(g->exec, d->stream), "replay");
}

static void forget(hr_cuda *d, hr_cuda_graph *g)
{
    if (!g)
        return;
    hr_cuda_check(d, cudaGraphExecDestroy(g->exec), "forget");
    hr_cuda_check(d, cudaGraphDestroy(g->graph), "forget");
    free(g);
}

extern "C" __attribute__((visibility("default"))) const hr_cuda_plugin_table *hr_cuda_plugin(void)
{
    static hr_cuda_plugin_table t;
    t.version = HR_CUDA_VERSION;
    t.bytes = sizeof t;
    t.open = open_device;
    t.close = close_device;
    t.take = take;
    t.take_host = take_host;
    t.upload = upload;
    t.download = download;
    t.stage = stage;
    t.staged = staged;
    t.await = await;
    t.copy = copy;
    t.zero = zero;
    t.wait = wait;
    t.mark = mark;
    t.reach = reach;
    t.record = record;
    t.recorded = recorded;
    t.replay = replay;
    t.forget = forget;
    hr_cuda_fill_products(&t);
    hr_cuda_fill_elementwise(&t);
    hr_cuda_fill_norm(&t);
    hr_cuda_fill_pool(&t);
    hr_cuda_fill_loss(&t);
    hr_cuda_fill_attack(&t);
    hr_cuda_fill_optim(&t);
    hr_cuda_fill_prune(&t);
    hr_cuda_fill_images(&t);
    hr_cuda_fill_apgd(&t);
    hr_cuda_fill_square(&t);
    hr_cuda_fill_fab(&t);
    return &t;
}
