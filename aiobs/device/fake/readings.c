/* What a device reads: memory, load, clocks, numbered fields, processes. */

#include "nvml.h"

#include <math.h>
#include <time.h>

#define REASON_POWER_CAP 4u

int nvmlDeviceGetMemoryInfo(Gpu *gpu, Memory *memory) {
    BEGIN_ON(nvmlDeviceGetMemoryInfo, gpu);
    memory->total = gpu->memory_total;
    memory->used = gpu->memory_used + gpu->memory_reserved;
    memory->free = memory->total - memory->used;
    return SUCCESS;
}

int nvmlDeviceGetMemoryInfo_v2(Gpu *gpu, Memory2 *memory) {
    BEGIN_ON(nvmlDeviceGetMemoryInfo_v2, gpu);
    if (memory->version != (2u << 24 | sizeof *memory)) return ARGUMENT_VERSION_MISMATCH;
    memory->total = gpu->memory_total;
    memory->reserved = gpu->memory_reserved;
    memory->used = gpu->memory_used;
    memory->free = memory->total - memory->used - memory->reserved;
    return SUCCESS;
}

int nvmlDeviceGetUtilizationRates(Gpu *gpu, Utilization *rates) {
    BEGIN_ON(nvmlDeviceGetUtilizationRates, gpu);
    WHOLE_ONLY(gpu);
    if (gpu->mig_mode) return NOT_SUPPORTED;
    double share = gpu->wave_ns ? load(gpu).share : 1;
    rates->gpu = (unsigned)lround(gpu->utilization * share);
    rates->memory = (unsigned)lround(gpu->memory_utilization * share);
    return SUCCESS;
}

int nvmlDeviceGetTemperature(Gpu *gpu, unsigned sensor, unsigned *degrees) {
    BEGIN_ON(nvmlDeviceGetTemperature, gpu);
    WHOLE_ONLY(gpu);
    if (sensor) return INVALID_ARGUMENT;
    *degrees = gpu->temperature;
    return SUCCESS;
}

int nvmlDeviceGetTemperatureV(Gpu *gpu, Temperature *temperature) {
    BEGIN_ON(nvmlDeviceGetTemperatureV, gpu);
    WHOLE_ONLY(gpu);
    if (temperature->version != (1u << 24 | sizeof *temperature)) return ARGUMENT_VERSION_MISMATCH;
    temperature->degrees = (int)gpu->temperature;
    return SUCCESS;
}

int nvmlDeviceGetPowerUsage(Gpu *gpu, unsigned *mw) {
    BEGIN_ON(nvmlDeviceGetPowerUsage, gpu);
    WHOLE_ONLY(gpu);
    *mw = (unsigned)lround(load(gpu).power_mw);
    return SUCCESS;
}

int nvmlDeviceGetEnforcedPowerLimit(Gpu *gpu, unsigned *mw) {
    BEGIN_ON(nvmlDeviceGetEnforcedPowerLimit, gpu);
    WHOLE_ONLY(gpu);
    *mw = gpu->power_limit_mw;
    return SUCCESS;
}

int nvmlDeviceGetTotalEnergyConsumption(Gpu *gpu, unsigned long long *mj) {
    BEGIN_ON(nvmlDeviceGetTotalEnergyConsumption, gpu);
    WHOLE_ONLY(gpu);
    *mj = (unsigned long long)load(gpu).energy_mj;
    return SUCCESS;
}

static int clock_mhz(const Gpu *gpu, unsigned type, unsigned *mhz, int now) {
    WHOLE_ONLY(gpu);
    if (type > 3) return INVALID_ARGUMENT;
    *mhz = type == 2 ? gpu->clock_memory_mhz : gpu->clock_sm_mhz;
    if (now && type != 2) *mhz = (unsigned)lround(*mhz * capped(gpu));
    return SUCCESS;
}

int nvmlDeviceGetClockInfo(Gpu *gpu, unsigned type, unsigned *mhz) {
    BEGIN_ON(nvmlDeviceGetClockInfo, gpu);
    return clock_mhz(gpu, type, mhz, 1);
}

int nvmlDeviceGetMaxClockInfo(Gpu *gpu, unsigned type, unsigned *mhz) {
    BEGIN_ON(nvmlDeviceGetMaxClockInfo, gpu);
    return clock_mhz(gpu, type, mhz, 0);
}

int nvmlDeviceGetPerformanceState(Gpu *gpu, unsigned *number) {
    BEGIN_ON(nvmlDeviceGetPerformanceState, gpu);
    WHOLE_ONLY(gpu);
    *number = gpu->performance_state;
    return SUCCESS;
}

int nvmlDeviceGetCurrentClocksEventReasons(Gpu *gpu, unsigned long long *reasons) {
    BEGIN_ON(nvmlDeviceGetCurrentClocksEventReasons, gpu);
    WHOLE_ONLY(gpu);
    *reasons = gpu->reasons | (capped(gpu) < 1 ? REASON_POWER_CAP : 0);
    return SUCCESS;
}

int nvmlDeviceGetCurrentClocksThrottleReasons(Gpu *gpu, unsigned long long *reasons) {
    BEGIN_ON(nvmlDeviceGetCurrentClocksThrottleReasons, gpu);
    WHOLE_ONLY(gpu);
    *reasons = gpu->reasons | (capped(gpu) < 1 ? REASON_POWER_CAP : 0);
    return SUCCESS;
}

static void field(const Gpu *gpu, FieldRow *row) {
    row->code = SUCCESS;
    for (unsigned i = 0; i < gpu->field_count && i < FIELDS; i++) {
        const Field *known = &gpu->fields[i];
        if (known->number == row->number && known->scope == row->scope) {
            row->type = known->type;
            row->value.u64 = known->value;
            row->code = (int)known->code;
            return;
        }
    }
    if (row->number == FIELD_ENERGY) {
        row->type = TYPE_UNSIGNED_LONG_LONG;
        row->value.u64 = (unsigned long long)load(gpu).energy_mj;
    } else if (row->number == FIELD_POWER_INSTANT || row->number == FIELD_POWER_AVERAGE) {
        row->type = TYPE_UNSIGNED;
        row->value.u32 = (unsigned)lround(load(gpu).power_mw);
    } else {
        row->code = NOT_SUPPORTED;
    }
}

int nvmlDeviceGetFieldValues(Gpu *gpu, int length, FieldRow *rows) {
    BEGIN_ON(nvmlDeviceGetFieldValues, gpu);
    WHOLE_ONLY(gpu);
    struct timespec time;
    clock_gettime(CLOCK_REALTIME, &time);
    for (int i = 0; i < length; i++) {
        rows[i].time_us = time.tv_sec * 1000000LL + time.tv_nsec / 1000;
        rows[i].latency_us = 0;
        field(gpu, &rows[i]);
    }
    return SUCCESS;
}

int nvmlDeviceGetPcieThroughput(Gpu *gpu, unsigned counter, unsigned *kib_s) {
    BEGIN_ON(nvmlDeviceGetPcieThroughput, gpu);
    WHOLE_ONLY(gpu);
    (void)counter;
    pause_ns(PCIE_SAMPLE_NS);
    *kib_s = 0;
    return SUCCESS;
}

int nvmlDeviceGetGpuFabricInfoV(Gpu *gpu, Fabric *fabric) {
    BEGIN_ON(nvmlDeviceGetGpuFabricInfoV, gpu);
    WHOLE_ONLY(gpu);
    if ((fabric->version & 0xffffff) < sizeof *fabric) return ARGUMENT_VERSION_MISMATCH;
    fabric->state = gpu->fabric_state;
    fabric->status = (int)gpu->fabric_status;
    fabric->clique = fabric->health = 0;
    return SUCCESS;
}

int nvmlDeviceGetComputeRunningProcesses_v3(Gpu *gpu, unsigned *length, RunningProcess *rows) {
    BEGIN_ON(nvmlDeviceGetComputeRunningProcesses_v3, gpu);
    unsigned room = *length, there = gpu->process_count < PROCESSES ? gpu->process_count : PROCESSES;
    *length = there;
    if (!there) return SUCCESS;
    if (!rows || room < there) return INSUFFICIENT_SIZE;
    for (unsigned i = 0; i < there; i++)
        rows[i] = (RunningProcess){gpu->processes[i].pid, gpu->processes[i].bytes, 0xffffffffu, 0xffffffffu};
    return SUCCESS;
}

int nvmlDeviceGetGraphicsRunningProcesses_v3(Gpu *gpu, unsigned *length, RunningProcess *rows) {
    BEGIN_ON(nvmlDeviceGetGraphicsRunningProcesses_v3, gpu);
    (void)rows;
    *length = 0;
    return SUCCESS;
}

int nvmlDeviceGetMPSComputeRunningProcesses_v3(Gpu *gpu, unsigned *length, RunningProcess *rows) {
    BEGIN_ON(nvmlDeviceGetMPSComputeRunningProcesses_v3, gpu);
    (void)rows;
    *length = 0;
    return SUCCESS;
}
