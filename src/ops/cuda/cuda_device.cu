/* cuda_device: memory, copies and recorded steps of one GPU, and the entry of the plugin. */
#include <stdio.h>
#include <stdlib.h>

#include "ops/cuda/cuda_common.cuh"
#include "ops/cuda/cuda_linear.cuh"
#include "ops/cuda/cuda_norm.cuh"
#include "ops/cuda/cuda_probe.cuh"
#include "ops/cuda/cuda_upload.cuh"

static CudaDevice *cuda_device(Device *device) {
    return (CudaDevice *)device;
}

static Status cuda_device_fail(cudaError_t code, const char *call, Err *err) {
    (void)cudaGetLastError();
    FAIL(err, ERR_DEVICE, "cuda: %s: %s", call, cudaGetErrorString(code));
}

/* A failure of a call before, which could not be told. */
static Status cuda_device_tell(CudaDevice *d, Err *err) {
    if (d->failure == cudaSuccess) return OK;
    const cudaError_t failure = d->failure;
    d->failure = cudaSuccess;
    return cuda_device_fail(failure, d->failed_call, err);
}

/* A failure of this call, or of one before. What must not be done in vain asks for those first. */
static Status cuda_device_check(CudaDevice *d, cudaError_t code, const char *call, Err *err) {
    TRY(cuda_device_tell(d, err));
    return code == cudaSuccess ? OK : cuda_device_fail(code, call, err);
}

static Status cuda_device_alloc(Device *device, size_t bytes, void **out, Err *err) {
    TRY(cuda_device_tell(cuda_device(device), err));
    cudaError_t code = cudaSetDevice(device->id);
    if (code == cudaSuccess) code = cudaMalloc(out, bytes > 0 ? bytes : 1);
    if (code == cudaErrorMemoryAllocation) {
        (void)cudaGetLastError();
        size_t left = 0, all = 0;
        (void)cudaMemGetInfo(&left, &all);
        FAIL(err, ERR_NOMEM, "cuda: no memory for %zu bytes; %zu of %zu are free", bytes, left,
             all);
    }
    return cuda_device_check(cuda_device(device), code, "cudaMalloc", err);
}

static void cuda_device_free(Device *device, void *p, size_t bytes) {
    (void)bytes;
    if (p != NULL) cuda_note(cuda_device(device), cudaFree(p), "cudaFree");
}

static Status cuda_device_sync(Device *device, Err *err) {
    CudaDevice *d = cuda_device(device);
    return cuda_device_check(d, cudaStreamSynchronize(d->stream), "a kernel before", err);
}

/* A failure of the device itself comes back from every wait. */
static bool cuda_device_lost(Device *device) {
    CudaDevice *d = cuda_device(device);
    d->failure = cudaSuccess;
    return cudaStreamSynchronize(d->stream) != cudaSuccess;
}

static Status cuda_device_queue_copy(Device *device, void *dst, const void *src, size_t bytes,
                                     cudaMemcpyKind kind, Err *err) {
    CudaDevice *d = cuda_device(device);
    cudaError_t code = cudaSetDevice(device->id);
    if (code == cudaSuccess) code = cudaMemcpyAsync(dst, src, bytes, kind, d->stream);
    return cuda_device_check(d, code, "cudaMemcpyAsync", err);
}

static Status cuda_device_upload(Device *device, void *dst, const void *src, size_t bytes,
                                 Err *err) {
    CudaDevice *d = cuda_device(device);
    if (cuda_upload_is_small(d, bytes)) return cuda_upload_small(d, dst, src, bytes, err);
    TRY(cuda_device_queue_copy(device, dst, src, bytes, cudaMemcpyHostToDevice, err));
    return cuda_device_sync(device, err);
}

static Status cuda_device_download(Device *device, void *dst, const void *src, size_t bytes,
                                   Err *err) {
    TRY(cuda_device_queue_copy(device, dst, src, bytes, cudaMemcpyDeviceToHost, err));
    return cuda_device_sync(device, err);
}

static Status cuda_device_copy(Device *device, void *dst, const void *src, size_t bytes, Err *err) {
    return cuda_device_queue_copy(device, dst, src, bytes, cudaMemcpyDeviceToDevice, err);
}

/* The driver's own copy of rows takes them less than 2 GB apart. */
static Status cuda_device_copy_rows(Device *device, const DeviceRows *r, Err *err) {
    CudaDevice *d = cuda_device(device);
    cudaError_t code = cudaSetDevice(device->id);
    if (MAX(r->dst_pitch, r->src_pitch) <= INT32_MAX) {
        if (code == cudaSuccess)
            code = cudaMemcpy2DAsync(r->dst, r->dst_pitch, r->src, r->src_pitch, r->row_bytes,
                                     r->n_rows, cudaMemcpyDefault, d->stream);
        return cuda_device_check(d, code, "cudaMemcpy2DAsync", err);
    }
    for (size_t i = 0; i < r->n_rows && code == cudaSuccess; i++)
        code = cudaMemcpyAsync((char *)r->dst + i * r->dst_pitch,
                               (const char *)r->src + i * r->src_pitch, r->row_bytes,
                               cudaMemcpyDefault, d->stream);
    return cuda_device_check(d, code, "cudaMemcpyAsync", err);
}

static Status cuda_device_send(Device *device, void *dst, const void *src, size_t bytes, Err *err) {
    return cuda_device_queue_copy(device, dst, src, bytes, cudaMemcpyHostToDevice, err);
}

static Status cuda_device_receive(Device *device, void *dst, const void *src, size_t bytes,
                                  Err *err) {
    return cuda_device_queue_copy(device, dst, src, bytes, cudaMemcpyDeviceToHost, err);
}

static void cuda_device_memory(Device *device, int64_t *total_bytes, int64_t *free_bytes) {
    size_t left = 0, all = 0;
    (void)cudaSetDevice(device->id);
    cuda_note(cuda_device(device), cudaMemGetInfo(&left, &all), "cudaMemGetInfo");
    *total_bytes = (int64_t)all;
    *free_bytes = (int64_t)left;
}

static Status cuda_device_host_alloc(Device *device, size_t bytes, void **out, Err *err) {
    TRY(cuda_device_tell(cuda_device(device), err));
    cudaError_t code = cudaSetDevice(device->id);
    if (code == cudaSuccess) code = cudaHostAlloc(out, bytes > 0 ? bytes : 1, 0);
    if (code == cudaErrorMemoryAllocation) {
        (void)cudaGetLastError();
        FAIL(err, ERR_NOMEM, "cuda: no page-locked host memory for %zu bytes", bytes);
    }
    return cuda_device_check(cuda_device(device), code, "cudaHostAlloc", err);
}

static void cuda_device_host_free(Device *device, void *p) {
    cuda_note(cuda_device(device), cudaFreeHost(p), "cudaFreeHost");
}

static Status cuda_device_graph_begin(Device *device, Err *err) {
    CudaDevice *d = cuda_device(device);
    TRY(cuda_device_tell(d, err));
    cudaError_t code = cudaSetDevice(device->id);
    if (code == cudaSuccess)
        code = cudaStreamBeginCapture(d->stream, cudaStreamCaptureModeThreadLocal);
    return cuda_device_check(d, code, "cudaStreamBeginCapture", err);
}

static Status cuda_device_graph_end(Device *device, void **out, Err *err) {
    CudaDevice *d = cuda_device(device);
    cudaGraph_t graph = NULL;
    cudaGraphExec_t exec = NULL;
    cudaError_t code = cudaStreamEndCapture(d->stream, &graph);
    Status status = cuda_device_check(d, code, "cudaStreamEndCapture", err);
    if (status == OK) {
        code = cudaGraphInstantiate(&exec, graph, 0);
        if (code == cudaSuccess) code = cudaGraphUpload(exec, d->stream);
        status = cuda_device_check(d, code, "cudaGraphInstantiate", err);
    }
    if (graph != NULL) (void)cudaGraphDestroy(graph);
    if (status == OK)
        *out = exec;
    else if (exec != NULL)
        (void)cudaGraphExecDestroy(exec);
    return status;
}

static Status cuda_device_graph_run(Device *device, void *graph, Err *err) {
    CudaDevice *d = cuda_device(device);
    return cuda_device_check(d, cudaGraphLaunch((cudaGraphExec_t)graph, d->stream),
                             "cudaGraphLaunch", err);
}

static void cuda_device_graph_free(Device *device, void *graph) {
    cuda_note(cuda_device(device), cudaGraphExecDestroy((cudaGraphExec_t)graph),
              "cudaGraphExecDestroy");
}

static Status cuda_device_limits(Device *device, DeviceLimits *out, Err *err) {
    const size_t bytes = (size_t)1 << 30;
    CudaDevice *d = cuda_device(device);
    void *memory = NULL;
    *out = (DeviceLimits){};
    TRY(cuda_device_alloc(device, bytes, &memory, err));
    cudaError_t code = cudaMemsetAsync(memory, 1, bytes, d->stream);
    if (code == cudaSuccess)
        code = cuda_probe_read(d->stream, d->n_sms, memory, bytes, &out->read_bytes_per_s);
    if (code == cudaSuccess)
        code = d->is_hopper ? cuda_probe_products_sm90(d->stream, d->n_sms, &out->products_per_s)
                            : cuda_probe_products(d->stream, d->n_sms, &out->products_per_s);
    cuda_device_free(device, memory, bytes);
    return cuda_device_check(d, code, "a measurement", err);
}

static void cuda_device_close(Device *device) {
    CudaDevice *d = cuda_device(device);
    cuda_weight_close(d);
    if (d->sums != NULL) (void)cudaFree(d->sums);
    if (d->n_arrived != NULL) (void)cudaFree(d->n_arrived);
    if (d->stream != NULL) (void)cudaStreamDestroy(d->stream);
    free(d);
}

static const DeviceVtable CUDA_DEVICE_VTABLE = {
    .name = "cuda",
    .alloc = cuda_device_alloc,
    .free = cuda_device_free,
    .upload = cuda_device_upload,
    .download = cuda_device_download,
    .copy = cuda_device_copy,
    .copy_rows = cuda_device_copy_rows,
    .sync = cuda_device_sync,
    .memory = cuda_device_memory,
    .close = cuda_device_close,
    .host_alloc = cuda_device_host_alloc,
    .host_free = cuda_device_host_free,
    .send = cuda_device_send,
    .receive = cuda_device_receive,
    .graph_begin = cuda_device_graph_begin,
    .graph_end = cuda_device_graph_end,
    .graph_run = cuda_device_graph_run,
    .graph_free = cuda_device_graph_free,
    .limits = cuda_device_limits,
    .lost = cuda_device_lost,
};

/* Why there is no GPU, told from what the driver says of itself. */
static Status cuda_device_missing(cudaError_t code, Err *err) {
    int driver = 0, runtime = 0;
    (void)cudaDriverGetVersion(&driver);
    (void)cudaRuntimeGetVersion(&runtime);
    if (driver == 0) FAIL(err, ERR_NOT_FOUND, "device cuda: there is no NVIDIA driver here");
    if (code == cudaErrorInsufficientDriver)
        FAIL(err, ERR_NOT_FOUND, "device cuda: the NVIDIA driver is for CUDA %d.%d, wanted %d.%d",
             driver / 1000, driver % 1000 / 10, runtime / 1000, runtime % 1000 / 10);
    if (code == cudaErrorNoDevice || code == cudaSuccess)
        FAIL(err, ERR_NOT_FOUND, "device cuda: there is no NVIDIA GPU here");
    FAIL(err, ERR_UNSUPPORTED, "device cuda: %s", cudaGetErrorString(code));
}

static Status cuda_device_find(int32_t id, cudaDeviceProp *properties, Err *err) {
    int n = 0;
    cudaError_t code = cudaGetDeviceCount(&n);
    (void)cudaGetLastError();
    if (code != cudaSuccess || n == 0) return cuda_device_missing(code, err);
    if (id >= n)
        FAIL(err, ERR_ARG, "device cuda:%d is not there, the last of the GPUs is cuda:%d", id,
             n - 1);
    code = cudaGetDeviceProperties(properties, id);
    if (code != cudaSuccess) return cuda_device_fail(code, "cudaGetDeviceProperties", err);
    if (properties->major < 8)
        FAIL(err, ERR_NOT_FOUND,
             "device cuda:%d is a %s of compute capability %d.%d, wanted 8.0 or later", id,
             properties->name, properties->major, properties->minor);
    return OK;
}

/* What this plugin has for the GPU. */
static Status cuda_device_choose(CudaDevice *d, const cudaDeviceProp *properties, Err *err) {
    int arch = 0;
    const cudaError_t code = cuda_probe_arch(&arch);
    if (code == cudaErrorNoKernelImageForDevice || code == cudaErrorInvalidDeviceFunction)
        FAIL(err, ERR_UNSUPPORTED,
             "device cuda:%d is a %s of compute capability %d.%d, for which this plugin was not "
             "built",
             d->base.id, properties->name, properties->major, properties->minor);
    if (code != cudaSuccess) return cuda_device_fail(code, "cudaFuncGetAttributes", err);
    d->is_hopper = properties->major == 9 && arch >= 90;
    d->n_sms = properties->multiProcessorCount;
    const size_t shared_bytes = properties->sharedMemPerBlockOptin - CUDA_NORM_REST_BYTES;
    d->norm_dim_max = MIN((int32_t)CUDA_NORM_DIM_MAX, (int32_t)(shared_bytes / sizeof(float)));
    return OK;
}

/* A stream, and where the CTAs of Hopper's products meet. */
static cudaError_t cuda_device_init(CudaDevice *d) {
    const size_t counters_bytes = CUDA_LINEAR_COUNTERS * sizeof(uint32_t);
    cudaError_t code = cudaStreamCreateWithFlags(&d->stream, cudaStreamNonBlocking);
    if (code != cudaSuccess || !d->is_hopper) return code;
    code = cudaMalloc(&d->sums, CUDA_LINEAR_SUMS_BYTES);
    if (code == cudaSuccess) code = cudaMalloc((void **)&d->n_arrived, counters_bytes);
    if (code == cudaSuccess) code = cudaMemset(d->n_arrived, 0, counters_bytes);
    return code == cudaSuccess ? cudaDeviceSynchronize() : code;
}

static Status cuda_device_open(int32_t id, Device **out, Err *err) {
    cudaDeviceProp properties;
    TRY(cuda_device_find(id, &properties, err));
    CudaDevice *d = (CudaDevice *)calloc(1, sizeof *d);
    if (d == NULL) FAIL(err, ERR_NOMEM, "no memory for a device");
    d->base.vtable = &CUDA_DEVICE_VTABLE;
    d->base.id = id;
    cudaError_t code = cudaSetDevice(id);
    Status status = code == cudaSuccess ? cuda_device_choose(d, &properties, err)
                                        : cuda_device_fail(code, "cudaSetDevice", err);
    if (status == OK) {
        code = cuda_device_init(d);
        if (code != cudaSuccess) status = cuda_fail(code, "a stream and its memory", err);
    }
    if (status != OK) {
        cuda_device_close(&d->base);
        return status;
    }
    *out = &d->base;
    return OK;
}

/* bf16, which the tensor cores multiply with weights, but where the weights are wider. */
static DType cuda_device_feed(DType weight) {
    return weight == DTYPE_F32 || weight == DTYPE_F64 ? DTYPE_F32 : DTYPE_BF16;
}

/* Ops run one after the other, so they share one piece. */
static size_t cuda_device_scratch_bytes(const OpsLimits *limits, int32_t n_threads) {
    (void)n_threads;
    size_t bytes = cuda_product_scratch_bytes(limits);
    bytes = MAX(bytes, cuda_moe_scratch_bytes(limits));
    return MAX(bytes, cuda_sample_scratch_bytes(limits));
}

static const Ops CUDA_DEVICE_OPS = {
    .level = "cuda",
    .feed = cuda_device_feed,
    .scratch_bytes = cuda_device_scratch_bytes,
    .weight_prepare = cuda_weight_prepare,
    .weight_release = cuda_weight_release,
    .table_prepare = cuda_weight_table,
    .weights_ready = cuda_weight_ready,
    .gated_prepare = cuda_weight_gated,
    .experts_prepare = cuda_weight_experts,
    .parts_prepare = cuda_weight_parts,
    .takes_norm = true,
    .takes_rope = true,
    .embed = cuda_embed,
    .norm = cuda_norm,
    .linear = cuda_product,
    .gated = cuda_product_gated,
    .rope_kv = cuda_rope,
    .attn = cuda_attend,
    .attn_plan_bytes = cuda_attend_plan_bytes,
    .attn_plan_open = cuda_attend_plan_open,
    .attn_plan = cuda_attend_plan,
    .act = cuda_act,
    .moe_route = cuda_moe_route,
    .moe = cuda_moe,
    .softcap = cuda_act_softcap,
    .gather_rows = cuda_embed_gather,
    .sample = cuda_sample,
};

static const Plugin CUDA_DEVICE_PLUGIN = {
    .abi = PLUGIN_ABI,
    .ops_bytes = sizeof(Ops),
    .device_bytes = sizeof(DeviceVtable),
    .ops = &CUDA_DEVICE_OPS,
    .device_open = cuda_device_open,
};

extern "C" __attribute__((visibility("default"))) const Plugin *sluice_plugin(void) {
    return &CUDA_DEVICE_PLUGIN;
}
