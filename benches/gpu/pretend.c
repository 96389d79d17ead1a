// A driver that computes nothing but our own kernels (steps.cu), and counts what is asked of it: the launches, copies and waits of a
// step, on any machine. What all other kernels would compute is zeros; what learns on it has learned nothing. See `benches/gpu/count`.
//
// What is asked while launches are recorded is counted apart, as it is asked once. What a driver refuses then ends the program.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef unsigned long long pointer;
static struct { const char *name; long count; } counts[] = {
    {"launches", 0}, {"products", 0}, {"copies there", 0}, {"copies back", 0}, {"copies within", 0}, {"fills", 0}, {"allocations", 0}, {"events", 0}, {"waits", 0},
    {"recorded", 0}, {"repeated", 0},
};
enum { LAUNCH, PRODUCT, THERE, BACK, WITHIN, FILL, ALLOCATION, EVENT, WAIT, RECORDED, REPEATED, KINDS };
static __thread int is_recording;
#define COUNT(kind) __atomic_add_fetch(&counts[is_recording ? RECORDED : kind].count, 1, __ATOMIC_RELAXED)
static void refuse_recorded(const char *what) {
    if (is_recording) { fprintf(stderr, "%s is asked while launches are recorded\n", what); abort(); }
}

__attribute__((destructor)) static void tell(void) {
    const char *path = getenv("PRETEND_COUNTS");
    FILE *file = path ? fopen(path, "w") : 0;
    for (int i = 0; file && i < KINDS; i++) fprintf(file, "%s: %ld\n", counts[i].name, counts[i].count);
    if (file) fclose(file);
}

#define NOTHING(name) int name(void) { return 0; }
#define HANDLE(name) int name(void **to) { *to = (void *)1; return 0; }

// Our kernels, as the compiler of this machine has them, and the thread that they are at.
struct { unsigned x; } blockIdx, blockDim, threadIdx;
typedef const float n; // what follows the factor
void sgd(float *, const float *, pointer, float, n, n);
void momentum(float *, const float *, pointer, float, n, n, n);
void adagrad(float *, const float *, pointer, float, n, n, n);
void adamw(float *, const float *, pointer, float, n, n, n, n, n, n, n, n);
static const char *kernels[] = {"", "", "sgd", "momentum", "adagrad", "adamw", 0};

// The driver.
NOTHING(cuInit) NOTHING(cuDevicePrimaryCtxRelease_v2) NOTHING(cuCtxSetCurrent) NOTHING(cuModuleUnload) NOTHING(cuCtxPushCurrent_v2)
NOTHING(cuEventDestroy_v2) HANDLE(cuDevicePrimaryCtxRetain) HANDLE(cuCtxGetCurrent)
int cuModuleLoadData(void **to) { refuse_recorded("a module"); *to = (void *)1; return 0; }
int cuModuleGetFunction(void **to, void *module, const char *name) {
    size_t at = 2;
    while (kernels[at] && strcmp(kernels[at], name)) at++;
    *to = (void *)(kernels[at] ? at : 1);
    return 0;
}
int cuDeviceGetCount(int *to) { *to = 1; return 0; }
int cuDriverGetVersion(int *to) { *to = 13000; return 0; }
int cuDeviceGet(int *to, int number) { *to = number; return number == 0 ? 0 : 101; }
int cuDeviceGetAttribute(int *to) { *to = 1; return 0; }
int cuFuncGetAttribute(int *to) { *to = 1024; return 0; }
int cuStreamIsCapturing(void *stream, int *to) { *to = is_recording; return 0; }
int cuStreamBeginCapture_v2(void) { refuse_recorded("a recording"); is_recording = 1; return 0; }
int cuStreamEndCapture(void *stream, void **to) { is_recording = 0; *to = (void *)1; return 0; }
HANDLE(cuGraphInstantiateWithFlags) NOTHING(cuGraphExecDestroy) NOTHING(cuGraphDestroy)
int cuGraphLaunch(void) { COUNT(REPEATED); return 0; }
int cuEventCreate(void **to) { COUNT(EVENT); *to = (void *)1; return 0; }
int cuEventRecord(void) { COUNT(EVENT); return 0; }
int cuStreamWaitEvent(void) { COUNT(EVENT); return 0; }
// As the real one, which has no memory of no bytes.
int cuMemAllocAsync(pointer *to, size_t bytes) { COUNT(ALLOCATION); *to = bytes ? (pointer)calloc(1, bytes) : 0; return *to ? 0 : 1; }
int cuMemAlloc_v2(pointer *to, size_t bytes) { return cuMemAllocAsync(to, bytes); }
// What is freed in a recording is there again when it is repeated.
int cuMemFreeAsync(pointer at) { if (!is_recording) free((void *)at); return 0; }
int cuMemFree_v2(pointer at) { return cuMemFreeAsync(at); }
int cuMemcpyHtoDAsync_v2(pointer to, const void *from, size_t bytes) { refuse_recorded("a copy there"); COUNT(THERE); memcpy((void *)to, from, bytes); return 0; }
int cuMemcpyDtoDAsync_v2(pointer to, pointer from, size_t bytes) { COUNT(WITHIN); if (!is_recording) memcpy((void *)to, (void *)from, bytes); return 0; }
int cuMemcpyDtoHAsync_v2(void *to, pointer from, size_t bytes) { refuse_recorded("a copy back"); COUNT(BACK); memcpy(to, (void *)from, bytes); return 0; }
int cuMemsetD8Async(pointer to, unsigned char byte, size_t bytes) { COUNT(FILL); if (!is_recording) memset((void *)to, byte, bytes); return 0; }
int cuStreamSynchronize(void) { refuse_recorded("a wait"); COUNT(WAIT); return 0; }
int cuCtxSynchronize(void) { refuse_recorded("a wait"); COUNT(WAIT); return 0; }
int cuLaunchKernel(void *kernel, unsigned blocks, unsigned y, unsigned z, unsigned threads, unsigned ty, unsigned tz, unsigned shared,
                   void *stream, void **parameters, void **more) {
    COUNT(LAUNCH);
    if ((size_t)kernel < 2 || is_recording) return 0;
    float *state = *(float **)parameters[0];
    const float *gradients = *(float **)parameters[1];
    pointer len = *(pointer *)parameters[2];
#define NUMBER(at) (*(float *)parameters[3 + (at)])
    for (pointer at = 0; at < (pointer)blocks * threads; at++) {
        blockDim.x = threads, blockIdx.x = at / threads, threadIdx.x = at % threads;
        switch ((size_t)kernel) {
        case 2: sgd(state, gradients, len, NUMBER(0), NUMBER(1), NUMBER(2)); break;
        case 3: momentum(state, gradients, len, NUMBER(0), NUMBER(1), NUMBER(2), NUMBER(3)); break;
        case 4: adagrad(state, gradients, len, NUMBER(0), NUMBER(1), NUMBER(2), NUMBER(3)); break;
        case 5: adamw(state, gradients, len, NUMBER(0), NUMBER(1), NUMBER(2), NUMBER(3), NUMBER(4), NUMBER(5), NUMBER(6), NUMBER(7), NUMBER(8)); break;
        }
    }
    return 0;
}

// The libraries.
HANDLE(cublasCreate_v2) NOTHING(cublasDestroy_v2) NOTHING(cublasSetStream_v2) NOTHING(cublasSetMathMode) NOTHING(cublasSetWorkspace_v2)
HANDLE(curandCreateGenerator) NOTHING(curandDestroyGenerator) NOTHING(curandSetStream) NOTHING(curandSetPseudoRandomGeneratorSeed)
int cublasGemmEx(void) { COUNT(PRODUCT); return 0; }
int cublasGemmStridedBatchedEx(void) { COUNT(PRODUCT); return 0; }
int cublasSgemmStridedBatched(void) { COUNT(PRODUCT); return 0; }
int cublasSgemm_v2(void) { COUNT(PRODUCT); return 0; }

// The compiler of kernels.
HANDLE(nvrtcCreateProgram) NOTHING(nvrtcCompileProgram) NOTHING(nvrtcDestroyProgram)
int nvrtcGetPTXSize(void *program, size_t *to) { *to = 1; return 0; }
int nvrtcGetPTX(void *program, char *to) { *to = 0; return 0; }
