/* The power limit: what it may be, what it is, and setting it. Energy so far is counted up before it changes. */

#include "nvml.h"

#define LEAST_MW 200000u
#define DEFAULT_MW 700000u

int nvmlDeviceGetPowerManagementLimit(Gpu *gpu, unsigned *mw) {
    BEGIN_ON(nvmlDeviceGetPowerManagementLimit, gpu);
    WHOLE_ONLY(gpu);
    *mw = gpu->power_limit_mw;
    return SUCCESS;
}

int nvmlDeviceGetPowerManagementDefaultLimit(Gpu *gpu, unsigned *mw) {
    BEGIN_ON(nvmlDeviceGetPowerManagementDefaultLimit, gpu);
    WHOLE_ONLY(gpu);
    *mw = DEFAULT_MW;
    return SUCCESS;
}

int nvmlDeviceGetPowerManagementLimitConstraints(Gpu *gpu, unsigned *least, unsigned *most) {
    BEGIN_ON(nvmlDeviceGetPowerManagementLimitConstraints, gpu);
    WHOLE_ONLY(gpu);
    *least = LEAST_MW;
    *most = DEFAULT_MW;
    return SUCCESS;
}

int nvmlDeviceSetPowerManagementLimit(Gpu *gpu, unsigned mw) {
    BEGIN_ON(nvmlDeviceSetPowerManagementLimit, gpu);
    WHOLE_ONLY(gpu);
    if (mw < LEAST_MW || mw > DEFAULT_MW) return INVALID_ARGUMENT;
    double demand = gpu->power_mw + (gpu->wave_ns ? gpu->wave_mw : 0);
    if (demand <= mw && demand <= gpu->power_limit_mw) { /* it bites neither before nor after */
        gpu->power_limit_mw = mw;
        return SUCCESS;
    }
    double energy_mj = load(gpu).energy_mj;
    __atomic_fetch_add(&gpu->sequence, 1, __ATOMIC_SEQ_CST);
    gpu->energy_base_mj = energy_mj;
    gpu->since_ns = now_ns();
    gpu->power_limit_mw = mw;
    __atomic_fetch_add(&gpu->sequence, 1, __ATOMIC_SEQ_CST);
    return SUCCESS;
}
