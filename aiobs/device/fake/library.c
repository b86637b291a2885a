/* Opening the library, and what it says of itself. */

#include "nvml.h"

static int init(enum function function) {
    int code = attach();
    if (!code) code = ruled(function, -1);
    if (!code) code = (int)state->init_code;
    if (!code) __atomic_fetch_add(&users, 1, __ATOMIC_SEQ_CST);
    return code;
}

int nvmlInit_v2(void) { return init(F_nvmlInit_v2); }

int nvmlInitWithFlags(unsigned flags) {
    (void)flags;
    return init(F_nvmlInitWithFlags);
}

int nvmlShutdown(void) {
    BEGIN(nvmlShutdown);
    __atomic_fetch_sub(&users, 1, __ATOMIC_SEQ_CST);
    return SUCCESS;
}

const char *nvmlErrorString(int code) {
    switch (code) {
    case SUCCESS: return "Success";
    case NOT_SUPPORTED: return "Not Supported";
    case DRIVER_NOT_LOADED: return "Driver Not Loaded";
    case GPU_IS_LOST: return "GPU is lost";
    case LIB_RM_VERSION_MISMATCH: return "Driver/library version mismatch";
    default: return "Error";
    }
}

int nvmlSystemGetDriverVersion(char *to, unsigned size) {
    BEGIN(nvmlSystemGetDriverVersion);
    return text(state->driver, to, size);
}

int nvmlSystemGetNVMLVersion(char *to, unsigned size) {
    BEGIN(nvmlSystemGetNVMLVersion);
    return text(state->library, to, size);
}

int nvmlSystemGetCudaDriverVersion(int *version) {
    BEGIN(nvmlSystemGetCudaDriverVersion);
    *version = state->cuda_version;
    return SUCCESS;
}

int nvmlSystemGetCudaDriverVersion_v2(int *version) {
    BEGIN(nvmlSystemGetCudaDriverVersion_v2);
    *version = state->cuda_version;
    return SUCCESS;
}
