/* Finding devices, and the instances that a GPU is divided into. */

#include "nvml.h"

#include <string.h>

int nvmlDeviceGetCount_v2(unsigned *found) {
    BEGIN(nvmlDeviceGetCount_v2);
    *found = state->gpu_count;
    return SUCCESS;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, Gpu **gpu) {
    if (!state || !users) return UNINITIALIZED;
    if (index >= state->gpu_count || index >= DEVICES) return ruled(F_nvmlDeviceGetHandleByIndex_v2, -1) ?: INVALID_ARGUMENT;
    BEGIN_ON(nvmlDeviceGetHandleByIndex_v2, &state->gpus[index]);
    *gpu = &state->gpus[index];
    return SUCCESS;
}

int nvmlDeviceGetHandleByUUID(const char *uuid, Gpu **gpu) {
    BEGIN(nvmlDeviceGetHandleByUUID);
    for (int i = 0; i < DEVICES; i++)
        if (state->gpus[i].kind != NONE && !strcmp(uuid, state->gpus[i].uuid)) {
            *gpu = &state->gpus[i];
            return state->gpus[i].lost ? GPU_IS_LOST : SUCCESS;
        }
    return NOT_FOUND;
}

int nvmlDeviceGetHandleByPciBusId_v2(const char *bus, Gpu **gpu) {
    BEGIN(nvmlDeviceGetHandleByPciBusId_v2);
    for (int i = 0; i < DEVICES; i++)
        if (state->gpus[i].kind == WHOLE && !strcmp(bus, state->gpus[i].pci)) {
            *gpu = &state->gpus[i];
            return state->gpus[i].lost ? GPU_IS_LOST : SUCCESS;
        }
    return NOT_FOUND;
}

int nvmlDeviceGetIndex(Gpu *gpu, unsigned *index) {
    BEGIN_ON(nvmlDeviceGetIndex, gpu);
    *index = (unsigned)(gpu - state->gpus);
    return SUCCESS;
}

int nvmlDeviceGetMinorNumber(Gpu *gpu, unsigned *number) {
    BEGIN_ON(nvmlDeviceGetMinorNumber, gpu);
    *number = (unsigned)(gpu - state->gpus);
    return SUCCESS;
}

int nvmlDeviceGetName(Gpu *gpu, char *to, unsigned size) {
    BEGIN_ON(nvmlDeviceGetName, gpu);
    return text(gpu->name, to, size);
}

int nvmlDeviceGetUUID(Gpu *gpu, char *to, unsigned size) {
    BEGIN_ON(nvmlDeviceGetUUID, gpu);
    return text(gpu->uuid, to, size);
}

int nvmlDeviceGetPciInfo_v3(Gpu *gpu, Pci *pci) {
    BEGIN_ON(nvmlDeviceGetPciInfo_v3, gpu);
    memset(pci, 0, sizeof *pci);
    memcpy(pci->bus_id, gpu->pci, sizeof pci->bus_id - 1);
    memcpy(pci->legacy, gpu->pci, sizeof pci->legacy - 1);
    return SUCCESS;
}

int nvmlDeviceGetMigMode(Gpu *gpu, unsigned *current, unsigned *pending) {
    BEGIN_ON(nvmlDeviceGetMigMode, gpu);
    if (!gpu->mig_supported) return NOT_SUPPORTED;
    *current = *pending = gpu->mig_mode;
    return SUCCESS;
}

int nvmlDeviceGetMaxMigDeviceCount(Gpu *gpu, unsigned *most) {
    BEGIN_ON(nvmlDeviceGetMaxMigDeviceCount, gpu);
    *most = gpu->mig_supported ? 7 : 0;
    return SUCCESS;
}

int nvmlDeviceGetMigDeviceHandleByIndex(Gpu *gpu, unsigned index, Gpu **instance) {
    BEGIN_ON(nvmlDeviceGetMigDeviceHandleByIndex, gpu);
    if (!gpu->mig_supported) return NOT_SUPPORTED;
    for (int i = 0; i < DEVICES && gpu->mig_mode; i++)
        if (state->gpus[i].kind == INSTANCE && state->gpus[i].parent == (int)(gpu - state->gpus) && !index--) {
            *instance = &state->gpus[i];
            return SUCCESS;
        }
    return NOT_FOUND;
}

int nvmlDeviceGetDeviceHandleFromMigDeviceHandle(Gpu *instance, Gpu **gpu) {
    BEGIN_ON(nvmlDeviceGetDeviceHandleFromMigDeviceHandle, instance);
    if (instance->kind != INSTANCE) return INVALID_ARGUMENT;
    *gpu = &state->gpus[instance->parent];
    return SUCCESS;
}

int nvmlDeviceIsMigDeviceHandle(Gpu *gpu, unsigned *answer) {
    BEGIN_ON(nvmlDeviceIsMigDeviceHandle, gpu);
    *answer = gpu->kind == INSTANCE;
    return SUCCESS;
}

int nvmlDeviceGetGpuInstanceId(Gpu *gpu, unsigned *number) {
    BEGIN_ON(nvmlDeviceGetGpuInstanceId, gpu);
    if (gpu->kind != INSTANCE) return NOT_SUPPORTED;
    *number = gpu->gpu_instance;
    return SUCCESS;
}

int nvmlDeviceGetComputeInstanceId(Gpu *gpu, unsigned *number) {
    BEGIN_ON(nvmlDeviceGetComputeInstanceId, gpu);
    if (gpu->kind != INSTANCE) return NOT_SUPPORTED;
    *number = gpu->compute_instance;
    return SUCCESS;
}
