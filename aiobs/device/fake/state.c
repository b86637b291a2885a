/* The state file, the rules of each call, and the power that becomes energy. */

#include "nvml.h"

#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

State *state;
static struct stat mapped;
int users;
static Caller *caller;

uint64_t now_ns(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

void pause_ns(long ns) {
    struct timespec time = {ns / 1000000000L, ns % 1000000000L};
    nanosleep(&time, NULL);
}

int attach(void) {
    const char *path = getenv("AIOBS_FAKE_GPU");
    struct stat found;
    int file = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    if (file < 0 || fstat(file, &found)) {
        if (file >= 0) close(file);
        return DRIVER_NOT_LOADED;
    }
    if (!state || mapped.st_ino != found.st_ino || mapped.st_dev != found.st_dev) {
        void *map = found.st_size < (off_t)sizeof(State)
                        ? MAP_FAILED
                        : mmap(NULL, sizeof(State), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
        if (map != MAP_FAILED) {
            /* The one before stays mapped: handles into it may be in use. */
            state = map;
            mapped = found;
            caller = NULL;
        } else {
            state = NULL;
        }
    }
    close(file);
    if (!state || state->magic != MAGIC || state->version != VERSION || state->size != sizeof(State)) {
        state = NULL;
        return LIB_RM_VERSION_MISMATCH;
    }
    return SUCCESS;
}

static void count(enum function function) {
    uint32_t pid = (uint32_t)getpid();
    Caller *mine = caller; /* other threads may be finding theirs, which is the same */
    if (!mine || mine->pid != pid) {
        mine = NULL;
        for (int i = 0; i < CALLERS && !mine; i++) {
            uint32_t nobody = 0;
            if (state->callers[i].pid == pid ||
                __atomic_compare_exchange_n(&state->callers[i].pid, &nobody, pid, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST) ||
                nobody == pid)
                mine = &state->callers[i];
        }
        if (!mine) return;
        caller = mine;
    }
    __atomic_fetch_add(&mine->calls[function], 1, __ATOMIC_RELAXED);
}

int ruled(enum function function, int device) {
    count(function);
    for (int i = 0; i < RULES; i++) {
        volatile Rule *rule = &state->rules[i];
        if (!rule->active || (rule->function >= 0 && rule->function != (int)function) ||
            (rule->device >= 0 && rule->device != device))
            continue;
        if (rule->delay_us) pause_ns((long)rule->delay_us * 1000L);
        while (rule->active && rule->hang) pause_ns(2000000L);
        if (rule->active && rule->code) return (int)rule->code;
    }
    return SUCCESS;
}

int begin(enum function function) {
    if (!state || !users) return UNINITIALIZED;
    return ruled(function, -1);
}

int begin_on(enum function function, Gpu *gpu) {
    if (!state || !users) return UNINITIALIZED;
    if (gpu < state->gpus || gpu >= state->gpus + DEVICES) return INVALID_ARGUMENT;
    int device = (int)(gpu - state->gpus), code = ruled(function, device);
    if (code) return code;
    if (gpu->kind == NONE) return INVALID_ARGUMENT;
    return gpu->lost || (gpu->parent >= 0 && state->gpus[gpu->parent].lost) ? GPU_IS_LOST : SUCCESS;
}

int text(const char *from, char *to, unsigned size) {
    size_t length = strlen(from) + 1;
    if (!to || length > size) return INSUFFICIENT_SIZE;
    memcpy(to, from, length);
    return SUCCESS;
}

double capped(const Gpu *gpu) {
    double demand = gpu->power_mw + (gpu->wave_ns ? gpu->wave_mw : 0);
    return demand > gpu->power_limit_mw ? gpu->power_limit_mw / demand : 1;
}

Load load(const Gpu *gpu) {
    for (;;) {
        uint32_t before = __atomic_load_n(&gpu->sequence, __ATOMIC_ACQUIRE);
        double base = gpu->energy_base_mj, power = gpu->power_mw, wave = gpu->wave_mw;
        uint64_t since = gpu->since_ns, period = gpu->wave_ns;
        double limit = gpu->power_limit_mw;
        power = power < limit ? power : limit;
        wave = wave < limit - power ? wave : limit - power;
        __atomic_thread_fence(__ATOMIC_ACQUIRE);
        if (before & 1 || before != __atomic_load_n(&gpu->sequence, __ATOMIC_ACQUIRE)) {
            pause_ns(1000);
            continue;
        }
        double time_s = (double)(now_ns() - since) / 1e9, share = 1;
        Load found = {base + power * time_s, power, 1};
        if (period) {
            double period_s = (double)period / 1e9, turn = 2 * M_PI / period_s;
            share = 0.5 - 0.5 * cos(turn * time_s);
            found.power_mw += wave * share;
            found.energy_mj += wave * (0.5 * time_s - sin(turn * time_s) / (2 * turn));
            found.share = share;
        }
        return found;
    }
}
