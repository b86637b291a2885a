/* Event sets: what has happened to devices, and to wait for it. */

#include "nvml.h"

#include <stdlib.h>

int nvmlDeviceGetSupportedEventTypes(Gpu *gpu, unsigned long long *types) {
    BEGIN_ON(nvmlDeviceGetSupportedEventTypes, gpu);
    WHOLE_ONLY(gpu);
    *types = gpu->event_types;
    return SUCCESS;
}

int nvmlEventSetCreate(EventSet **made) {
    BEGIN(nvmlEventSetCreate);
    EventSet *set = calloc(1, sizeof *set);
    if (!set) return OUT_OF_MEMORY;
    set->seen = __atomic_load_n(&state->event_count, __ATOMIC_ACQUIRE);
    *made = set;
    return SUCCESS;
}

int nvmlDeviceRegisterEvents(Gpu *gpu, unsigned long long types, EventSet *set) {
    BEGIN_ON(nvmlDeviceRegisterEvents, gpu);
    WHOLE_ONLY(gpu);
    if (types & ~gpu->event_types) return NOT_SUPPORTED;
    set->types[gpu - state->gpus] |= types;
    return SUCCESS;
}

int nvmlEventSetWait_v2(EventSet *set, EventRow *row, unsigned timeout_ms) {
    BEGIN(nvmlEventSetWait_v2);
    uint64_t until = now_ns() + (uint64_t)timeout_ms * 1000000u;
    for (;;) {
        uint64_t there = __atomic_load_n(&state->event_count, __ATOMIC_ACQUIRE);
        if (there - set->seen > EVENTS) set->seen = there - EVENTS;
        while (set->seen < there) {
            Event event = state->events[set->seen++ % EVENTS];
            if (event.device < 0 || event.device >= DEVICES) continue;
            Gpu *gpu = &state->gpus[event.device];
            EventRow told = {gpu, event.type, event.number, 0xffffffffu, 0xffffffffu};
            if (gpu->kind == INSTANCE) {
                told.device = &state->gpus[gpu->parent];
                told.gpu_instance = gpu->gpu_instance;
                told.compute_instance = gpu->compute_instance;
            }
            if (!(set->types[(Gpu *)told.device - state->gpus] & event.type)) continue;
            *row = told;
            return SUCCESS;
        }
        for (int i = 0; i < DEVICES; i++)
            if (set->types[i] && state->gpus[i].lost) return GPU_IS_LOST;
        uint64_t time = now_ns();
        if (time >= until) return TIMEOUT;
        pause_ns(until - time < (uint64_t)EVENT_POLL_NS ? (long)(until - time) : EVENT_POLL_NS);
    }
}

int nvmlEventSetFree(EventSet *set) {
    BEGIN(nvmlEventSetFree);
    free(set);
    return SUCCESS;
}
