/* The steps of one thread, as the files about steps, one step and phases share them. */
#ifndef AIOBS_STEPS_H
#define AIOBS_STEPS_H

#include "core.h"

/* An open phase: its entry, its start, and what OpenTelemetry held as current around it. */
typedef struct {
    uint16_t index;
    uint64_t start;
    PyObject *token;
    int64_t own; /* what enter() gave for it */
} Open;

struct HotSteps {
    PyObject_HEAD
    char open, explicit, claimed;
    uint64_t start_ns, step_start;
    uint64_t number, serial, provisional_end;
    int64_t given; /* the token given last */
    PyObject *token, *flight;
    PyObject *memory;     /* a bytearray in place of an area of the flight record, or NULL */
    Py_ssize_t area;
    unsigned int count, begun;
    unsigned int marked;  /* entries there were at the provisional end */
    Open *stack;
    Py_ssize_t depth, room;
    PyObject *route;      /* the route that `place` was computed for, NULL where it has to be computed */
    Place place;          /* of spans begun in the innermost phase */
    PyObject *attributes; /* a dict of those of the open step, or NULL */
    PyObject *context;    /* what context() remembers */
};

/* The step's memory, valid until Python runs; NULL where there is none (any more). */
static inline char *
area_of(HotSteps *self)
{
    if (self->memory != NULL) {
        return PyByteArray_AS_STRING(self->memory);
    }
    Writer *writer = self->flight == NULL || self->area == 0 ? NULL : writer_of(self->flight);
    return writer == NULL ? NULL : writer->base + self->area;
}

/* Begins a phase; its token, -1 where it is not recorded, -2 with an error. */
CORE_HIDDEN int64_t steps_enter(HotSteps *self, unsigned int phase, uint64_t start);
CORE_HIDDEN void steps_leave(HotSteps *self, int64_t token, uint64_t end);
/* Notes what OpenTelemetry holds as current; 0, or -1 with an error. */
CORE_HIDDEN int steps_look_outside(HotSteps *self);
CORE_HIDDEN void steps_drop_stack(HotSteps *self);

/* Begins a step of this number, None for the next one; 0, or -1 with an error. */
CORE_HIDDEN int step_begin(HotSteps *self, PyObject *number, uint64_t start);
CORE_HIDDEN PyObject *step_begin_called(HotSteps *self, PyObject *const *args, Py_ssize_t count, PyObject *names);
CORE_HIDDEN PyObject *step_mark_end_called(HotSteps *self, PyObject *const *args, Py_ssize_t count, PyObject *names);
CORE_HIDDEN PyObject *step_close_called(HotSteps *self, PyObject *const *args, Py_ssize_t count, PyObject *names);

#endif
