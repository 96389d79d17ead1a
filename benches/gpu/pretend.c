// A driver that computes nothing, and counts what is asked of it: the launches, copies and waits of a step, on any machine.
// All memory is zeros and stays so; what learns on it has learned nothing. See `benches/gpu/count`.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef unsigned long long pointer;
static struct { const char *name; long count; } counts[] = {
    {"launches", 0}, {"products", 0}, {"copies there", 0}, {"copies back", 0}, {"copies within", 0}, {"fills", 0}, {"allocations", 0}, {"events", 0}, {"waits", 0},
};
enum { LAUNCH, PRODUCT, THERE, BACK, WITHIN, FILL, ALLOCATION, EVENT, WAIT, KINDS };
#define COUNT(kind) __atomic_add_fetch(&counts[kind].count, 1, __ATOMIC_RELAXED)

__attribute__((destructor)) static void tell(void) {
    const char *path = getenv("PRETEND_COUNTS");
    FILE *file = path ? fopen(path, "w") : 0;
    for (int i = 0; file && i < KINDS; i++) fprintf(file, "%s: %ld\n", counts[i].name, counts[i].count);
    if (file) fclose(file);
}

#define NOTHING(name) int name(void) { return 0; }
#define HANDLE(name) int name(void **to) { *to = (void *)1; return 0; }

// The driver.
NOTHING(cuInit) NOTHING(cuDevicePrimaryCtxRelease_v2) NOTHING(cuCtxSetCurrent) NOTHING(cuModuleUnload) NOTHING(cuCtxPushCurrent_v2)
NOTHING(cuEventDestroy_v2) HANDLE(cuModuleLoadData) HANDLE(cuModuleGetFunction) HANDLE(cuDevicePrimaryCtxRetain) HANDLE(cuCtxGetCurrent)
int cuDeviceGetCount(int *to) { *to = 1; return 0; }
int cuDriverGetVersion(int *to) { *to = 13000; return 0; }
int cuDeviceGet(int *to, int number) { *to = number; return number == 0 ? 0 : 101; }
int cuDeviceGetAttribute(int *to) { *to = 1; return 0; }
int cuFuncGetAttribute(int *to) { *to = 1024; return 0; }
int cuStreamIsCapturing(void *stream, int *to) { *to = 0; return 0; }
int cuEventCreate(void **to) { COUNT(EVENT); *to = (void *)1; return 0; }
int cuEventRecord(void) { COUNT(EVENT); return 0; }
int cuStreamWaitEvent(void) { COUNT(EVENT); return 0; }
// As the real one, which has no memory of no bytes.
int cuMemAllocAsync(pointer *to, size_t bytes) { COUNT(ALLOCATION); *to = bytes ? (pointer)calloc(1, bytes) : 0; return *to ? 0 : 1; }
int cuMemAlloc_v2(pointer *to, size_t bytes) { return cuMemAllocAsync(to, bytes); }
int cuMemFreeAsync(pointer at) { free((void *)at); return 0; }
int cuMemFree_v2(pointer at) { return cuMemFreeAsync(at); }
int cuMemcpyHtoDAsync_v2(void) { COUNT(THERE); return 0; }
int cuMemcpyDtoDAsync_v2(void) { COUNT(WITHIN); return 0; }
int cuMemcpyDtoHAsync_v2(void *to, pointer from, size_t bytes) { COUNT(BACK); memset(to, 0, bytes); return 0; }
int cuMemsetD8Async(void) { COUNT(FILL); return 0; }
int cuStreamSynchronize(void) { COUNT(WAIT); return 0; }
int cuCtxSynchronize(void) { COUNT(WAIT); return 0; }
int cuLaunchKernel(void) { COUNT(LAUNCH); return 0; }

// The libraries.
HANDLE(cublasCreate_v2) NOTHING(cublasDestroy_v2) NOTHING(cublasSetStream_v2) NOTHING(cublasSetMathMode) NOTHING(cublasSetWorkspace_v2)
HANDLE(curandCreateGenerator) NOTHING(curandDestroyGenerator) NOTHING(curandSetStream) NOTHING(curandSetPseudoRandomGeneratorSeed)
int cublasGemmEx(void) { COUNT(PRODUCT); return 0; }
int cublasGemmStridedBatchedEx(void) { COUNT(PRODUCT); return 0; }
int cublasSgemmStridedBatched(void) { COUNT(PRODUCT); return 0; }
int cublasSgemm_v2(void) { COUNT(PRODUCT); return 0; }
