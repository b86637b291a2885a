/* The compiled core of the recorder's hot path: what its files share.
 *
 * Everything here runs while holding the GIL, and no function calls into Python between reading the address of
 * the mapped file and its last write there. So no lock is needed, and a file swapped for scratch memory (closed,
 * inherited over a fork) is never written to afterwards.
 *
 * The layout of the bytes is that of aiobs/recorder/layout.py; module.c exports the numbers it was compiled with
 * as LAYOUT, and aiobs/recorder/compiled.py refuses a core that was built for another layout.
 */
#ifndef AIOBS_CORE_H
#define AIOBS_CORE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <structmember.h>

#include <stdint.h>
#include <string.h>
#include <time.h>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "flight records are little-endian; use the pure Python recorder here"
#endif

#define CORE_HIDDEN __attribute__((visibility("hidden")))
#define LIKELY(x) __builtin_expect(!!(x), 1)

enum {
    /* What the Python side relies on in this module; counted up, there and in compiled.py, when that changes. A core
     * that an older source tree left behind is then passed over. */
    FACE_VERSION = 2,
    FORMAT_VERSION = 1,
    CONTROL_AT = 64,
    CONTROL_OFF = 1,
    HEAD_BYTES = 80,
    CELL_BYTES = 192,
    CELL_PAYLOAD = CELL_BYTES - HEAD_BYTES,
    AREA_BYTES = 8192,
    COUNT_BYTES = 8,
    ENTRY_BYTES = 24,
    AREA_ENTRIES = (AREA_BYTES - HEAD_BYTES - COUNT_BYTES) / ENTRY_BYTES,
    NO_SLOT = 0xFFFF,
    KIND_SPAN = 1,
    KIND_STEP = 4,
    KIND_PART = 5,
    FLAG_IN_STEP = 4,
    FLAG_SKIPPED = 32,
};

/* layout.HEAD */
typedef struct {
    uint8_t kind, flags;
    uint16_t slot;
    uint32_t schema;
    uint64_t trace_high, trace_low, span, parent;
    uint32_t thread;
    uint16_t size, parts;
    uint64_t start, aux, end, seq;
} Head;
_Static_assert(sizeof(Head) == HEAD_BYTES, "layout.HEAD");

/* layout.STEP_COUNT and layout.STEP_ENTRY */
typedef struct {
    uint16_t present, zero;
    uint32_t begun;
} Count;
typedef struct {
    uint16_t phase, outer;
    uint32_t thread;
    uint64_t start, end;
} Entry;
_Static_assert(sizeof(Count) == COUNT_BYTES && sizeof(Entry) == ENTRY_BYTES, "layout.STEP_ENTRY");

/* The mapped file of one flight record, and its counter of sequence numbers. */
typedef struct {
    PyObject_HEAD
    Py_buffer view;
    char *base;
    uint64_t next_seq, ring_at, cells;
    PyObject *free; /* flight.free: a list of (offset, number << 16), shared with the writers in Python */
} Writer;

/* Packs the values of one set of keys and types; flight records call it a schema. */
typedef struct {
    PyObject_VAR_HEAD
    uint32_t schema;
    Py_ssize_t count, fixed; /* values, and bytes of their fixed part */
    char letters[];          /* from "qdsbj" */
} Shape;

typedef struct HotSteps HotSteps;

/* Where a span belongs: its trace, its parent, and what the heads of that trace's spans have in their first word. */
typedef struct {
    uint64_t trace_high, trace_low, span, lead;
} Place;

extern CORE_HIDDEN PyTypeObject WriterType, ShapeType, HotSpanType, HotStepsType, HotPhaseType;

/* What core.wire() was given: objects of the Python side, and where their slots lie. */
typedef struct {
    PyObject *state, *current, *families, *nothing, *open_slowly, *swallow;
    PyTypeObject *span_type;
    Py_ssize_t state_flight, state_sleeping, state_ambient, state_route, state_joined, state_join_limit, state_outside, state_foreign, state_surrounded;
    Py_ssize_t state_generation, flight_writer, family_lead, family_recent;
} Wiring;
extern CORE_HIDDEN Wiring wiring;

/* The object in a Python __slots__ slot, borrowed; NULL where unset. */
#define SLOT(object, offset) (*(PyObject **)((char *)(object) + (offset)))
#define STATE(name) SLOT(wiring.state, wiring.state_##name)

static inline uint64_t
now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* Where `seq` is written last, so that it makes the whole valid. */
static inline void
publish(uint64_t *seq, uint64_t value)
{
    __atomic_store_n(seq, value, __ATOMIC_RELEASE);
}

static inline Writer *
writer_of(PyObject *flight)
{
    return (Writer *)SLOT(flight, wiring.flight_writer);
}

/* A new reference to what a field holds, None where it is NULL. */
static inline PyObject *
or_none(PyObject *held)
{
    held = held == NULL ? Py_None : held;
    Py_INCREF(held);
    return held;
}

static inline Head *
next_cell(Writer *writer, uint64_t *seq)
{
    *seq = writer->next_seq++;
    return (Head *)(writer->base + writer->ring_at + *seq % writer->cells * CELL_BYTES);
}

/* Number of the calling thread, as threading.get_native_id() has it. */
CORE_HIDDEN uint32_t thread_number(void);
/* 64 random bits from a private stream, never 0; the stream is new in a forked child. */
CORE_HIDDEN uint64_t random_id(void);
/* Writes `count` values to `to`; bytes written, or -1 where they are not of these types or take more than `room`. */
CORE_HIDDEN Py_ssize_t shape_write(const Shape *shape, char *to, Py_ssize_t room, PyObject *const *values, Py_ssize_t count);
/* The steps of the calling thread, borrowed; NULL where it has none. */
CORE_HIDDEN HotSteps *steps_here(void);
/* Whether a step is open there; when its innermost open phase, or else it, began, and what OpenTelemetry held then. */
CORE_HIDDEN int steps_open(const HotSteps *steps, uint64_t *since, PyObject **inside);
/* Where a span begun in the open step belongs; may call Python. 1: found, -1: error. */
CORE_HIDDEN int steps_place(HotSteps *steps, Place *place);
/* What a Context says, where it is of the plain sort: 1, else 0. */
CORE_HIDDEN int place_of_context(PyObject *context, Place *place);
/* Pass the exception that is set on to guard.swallow(place, error); 0, or -1 where that raises. */
CORE_HIDDEN int swallow_fault(const char *place);
/* Forget what was remembered of families and keys. */
CORE_HIDDEN void forget_shapes(void);
/* Make the names of methods; 0, or -1 with an error. */
CORE_HIDDEN int span_names(void);
CORE_HIDDEN int steps_names(void);
CORE_HIDDEN int step_names(void);
CORE_HIDDEN int phase_names(void);
CORE_HIDDEN PyObject *core_span(PyObject *module, PyObject *const *args, Py_ssize_t count, PyObject *names);

#endif
