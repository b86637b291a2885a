/* What other programs ask for and these devices do not have; further arguments are never looked at. */

#include "nvml.h"

#define ABSENT(name)                 \
    int name(Gpu *gpu);              \
    int name(Gpu *gpu) {             \
        BEGIN_ON(name, gpu);         \
        return NOT_SUPPORTED;        \
    }

ABSENT(nvmlDeviceGetBAR1MemoryInfo)
ABSENT(nvmlDeviceGetComputeMode)
ABSENT(nvmlDeviceGetDecoderUtilization)
ABSENT(nvmlDeviceGetDisplayActive)
ABSENT(nvmlDeviceGetDriverModel)
ABSENT(nvmlDeviceGetEncoderUtilization)
ABSENT(nvmlDeviceGetFanSpeed)
ABSENT(nvmlDeviceGetPersistenceMode)
ABSENT(nvmlDeviceGetProcessUtilization)
ABSENT(nvmlDeviceGetTotalEccErrors)
