/* A libnvidia-ml.so.1 without a GPU: what it answers is in a file that other processes change while it runs.
 *
 * The file is named by AIOBS_FAKE_GPU and laid out by layout.py, from which layout.h is made. Every call is
 * counted by function and by the process that made it, and may be told to fail, to take its time or to hang.
 */

#ifndef AIOBS_FAKE_NVML_H
#define AIOBS_FAKE_NVML_H

#include "layout.h"

#include <stdint.h>

enum {
    SUCCESS = 0,
    UNINITIALIZED = 1,
    INVALID_ARGUMENT = 2,
    NOT_SUPPORTED = 3,
    NOT_FOUND = 6,
    INSUFFICIENT_SIZE = 7,
    DRIVER_NOT_LOADED = 9,
    TIMEOUT = 10,
    GPU_IS_LOST = 15,
    LIB_RM_VERSION_MISMATCH = 18,
    OUT_OF_MEMORY = 20,
    ARGUMENT_VERSION_MISMATCH = 25,
};
enum { FIELD_ENERGY = 83, FIELD_POWER_AVERAGE = 185, FIELD_POWER_INSTANT = 186 };
enum { TYPE_UNSIGNED = 1, TYPE_UNSIGNED_LONG_LONG = 3 };
enum { NONE, WHOLE, INSTANCE };
#define PCIE_SAMPLE_NS 20000000L /* what the real call takes, and why nobody should make it */
#define EVENT_POLL_NS 100000000L

typedef struct { unsigned long long total, free, used; } Memory;
typedef struct { unsigned version; unsigned long long total, reserved, free, used; } Memory2;
typedef struct { unsigned gpu, memory; } Utilization;
typedef struct { char legacy[16]; unsigned domain, bus, device, vendor, subsystem; char bus_id[32]; } Pci;
typedef struct { unsigned pid; unsigned long long bytes; unsigned gpu_instance, compute_instance; } RunningProcess;
typedef struct { void *device; unsigned long long type, number; unsigned gpu_instance, compute_instance; } EventRow;
typedef struct { unsigned version; unsigned char cluster[16]; int status; unsigned clique, state, health; } Fabric;
typedef struct {
    unsigned number, scope;
    long long time_us, latency_us;
    unsigned type;
    int code;
    union { double f64; unsigned u32; unsigned long long u64; } value;
} FieldRow;
typedef struct { unsigned version, sensor; int degrees; } Temperature;
typedef struct { uint64_t seen, types[DEVICES]; } EventSet;

typedef struct { double energy_mj, power_mw, share; } Load;

extern State *state; /* NULL before the first init */
extern int users;    /* inits without a shutdown */

uint64_t now_ns(void);
void pause_ns(long ns);

/* Attach to the file that the environment names. Returns SUCCESS or an error. */
int attach(void);

/* What the rules say about a call of `function` on device number `device`, -1 where it is about none; counts it. */
int ruled(enum function function, int device);

/* What a call has to return before it begins, else SUCCESS. */
int begin(enum function function);
int begin_on(enum function function, Gpu *gpu);

/* Copy `from` to the caller's `size` bytes at `to`. */
int text(const char *from, char *to, unsigned size);

/* Power now, within its limit, and energy so far; both from one moment's numbers, which another process may be changing. */
Load load(const Gpu *gpu);

/* What the power limit leaves of what it would draw, 1 where it does not bite. */
double capped(const Gpu *gpu);

#define BEGIN(name) do { int code = begin(F_##name); if (code) return code; } while (0)
#define BEGIN_ON(name, gpu) do { int code = begin_on(F_##name, gpu); if (code) return code; } while (0)
#define WHOLE_ONLY(gpu) do { if ((gpu)->kind != WHOLE) return NOT_SUPPORTED; } while (0)

#endif
