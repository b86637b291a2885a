/* A span, as the files about its life and about its face to Python share it. */
#ifndef AIOBS_SPAN_H
#define AIOBS_SPAN_H

#include "core.h"

typedef struct {
    PyObject_HEAD
    PyObject *flight;     /* NULL once ended */
    PyObject *family;
    PyObject *rest;       /* what only some spans have, or NULL */
    PyObject *entered;    /* the context variable's token inside `with` */
    PyObject *foreign;    /* `token`: what OpenTelemetry held as current when it began */
    PyObject *attributes; /* a dict; NULL while they are only in keys and values */
    PyObject *keys, *values; /* what span() was given, or NULL */
    PyObject *slot;       /* (offset, number << 16) of the mark; NULL before it begins */
    PyObject *trace_state;
    uint64_t trace_high, trace_low, id;
    uint64_t lead;        /* kind and flags that spans of the trace share, as in a head's first word */
    Py_ssize_t size;      /* bytes of the mark */
} HotSpan;

CORE_HIDDEN PyObject *span_start(HotSpan *self, PyObject *none);
CORE_HIDDEN PyObject *span_enter(HotSpan *self, PyObject *none);
CORE_HIDDEN PyObject *span_end(HotSpan *self, PyObject *const *args, Py_ssize_t count, PyObject *names);
CORE_HIDDEN PyObject *span_exit(HotSpan *self, PyObject *const *args, Py_ssize_t count);

#endif
