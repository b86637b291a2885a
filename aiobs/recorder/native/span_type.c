/* What Python sees of a span: span() that makes one, the fields, the type. */
#include "span.h"

/* Getter and setter of an object that is None where the field is NULL. */
#define FIELD(name)                                                                    \
    static PyObject *get_##name(HotSpan *self, void *Py_UNUSED(closure))               \
    {                                                                                  \
        return or_none(self->name);                                                    \
    }                                                                                  \
    static int set_##name(HotSpan *self, PyObject *value, void *Py_UNUSED(closure))    \
    {                                                                                  \
        value = value == Py_None ? NULL : value;                                       \
        Py_XINCREF(value);                                                             \
        Py_XSETREF(self->name, value);                                                 \
        return 0;                                                                      \
    }
FIELD(flight)
FIELD(family)
FIELD(rest)
FIELD(entered)
FIELD(foreign)

static PyObject *
get_slot(HotSpan *self, void *Py_UNUSED(closure))
{
    return or_none(self->slot);
}

static int
set_slot(HotSpan *self, PyObject *value, void *Py_UNUSED(closure))
{
    if (value == Py_None) {
        value = NULL;
    }
    if (value != NULL && !(PyTuple_CheckExact(value) && PyTuple_GET_SIZE(value) == 2 &&
                           PyLong_CheckExact(PyTuple_GET_ITEM(value, 0)) && PyLong_CheckExact(PyTuple_GET_ITEM(value, 1)))) {
        PyErr_SetString(PyExc_TypeError, "_slot: a pair of ints, or None");
        return -1;
    }
    Py_XINCREF(value);
    Py_XSETREF(self->slot, value);
    return 0;
}

static PyObject *
get_attributes(HotSpan *self, void *Py_UNUSED(closure))
{
    if (self->attributes == NULL) {
        PyObject *made = PyDict_New();
        Py_ssize_t count = made == NULL || self->values == NULL ? 0 : PyTuple_GET_SIZE(self->values);
        for (Py_ssize_t i = 0; i < count; i++) {
            if (PyDict_SetItem(made, PyTuple_GET_ITEM(self->keys, i), PyTuple_GET_ITEM(self->values, i)) < 0) {
                Py_CLEAR(made);
                break;
            }
        }
        if (made == NULL) {
            return NULL;
        }
        self->attributes = made;
        Py_CLEAR(self->keys);
        Py_CLEAR(self->values);
    }
    return or_none(self->attributes);
}

static int
set_attributes(HotSpan *self, PyObject *value, void *Py_UNUSED(closure))
{
    Py_CLEAR(self->keys);
    Py_CLEAR(self->values);
    Py_XINCREF(value);
    Py_XSETREF(self->attributes, value);
    return 0;
}

static PyObject *
get_trace(HotSpan *self, void *Py_UNUSED(closure))
{
    if (self->trace_state == NULL) {
        return Py_BuildValue("(KKKs)", self->trace_high, self->trace_low, self->lead, "");
    }
    return Py_BuildValue("(KKKO)", self->trace_high, self->trace_low, self->lead, self->trace_state);
}

static int
set_trace(HotSpan *self, PyObject *value, void *Py_UNUSED(closure))
{
    unsigned long long high, low, lead;
    PyObject *state;
    if (value == NULL || !PyTuple_Check(value)) {
        PyErr_SetString(PyExc_TypeError, "_trace: a tuple");
        return -1;
    }
    if (!PyArg_ParseTuple(value, "KKKU", &high, &low, &lead, &state)) {
        return -1;
    }
    self->trace_high = high;
    self->trace_low = low;
    self->lead = lead;
    state = PyUnicode_GET_LENGTH(state) ? state : NULL;
    Py_XINCREF(state);
    Py_XSETREF(self->trace_state, state);
    return 0;
}

static PyGetSetDef span_fields[] = {
    {"_flight", (getter)get_flight, (setter)set_flight, NULL, NULL},
    {"_family", (getter)get_family, (setter)set_family, NULL, NULL},
    {"_rest", (getter)get_rest, (setter)set_rest, NULL, NULL},
    {"_token", (getter)get_entered, (setter)set_entered, NULL, NULL},
    {"token", (getter)get_foreign, (setter)set_foreign, NULL, NULL},
    {"_slot", (getter)get_slot, (setter)set_slot, NULL, NULL},
    {"_trace", (getter)get_trace, (setter)set_trace, NULL, NULL},
    {"attributes", (getter)get_attributes, (setter)set_attributes, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMemberDef span_members[] = {
    {"id", T_ULONGLONG, offsetof(HotSpan, id), 0, NULL},
    {"_size", T_PYSSIZET, offsetof(HotSpan, size), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyMethodDef span_methods[] = {
    {"__enter__", (PyCFunction)span_enter, METH_NOARGS, NULL},
    {"__exit__", (PyCFunction)(void (*)(void))span_exit, METH_FASTCALL, NULL},
    {"start", (PyCFunction)span_start, METH_NOARGS,
     "start($self, /)\n--\n\nBegin without becoming current; :meth:`end` finishes it."},
    {"end", (PyCFunction)(void (*)(void))span_end, METH_FASTCALL | METH_KEYWORDS,
     "end($self, /, end_ns=None)\n--\n\nFinish the span (monotonic ns; now by default). A second call does nothing."},
    {NULL, NULL, 0, NULL},
};

#define EACH_OBJECT(DO, self)                                                                      \
    DO(self->flight) DO(self->family) DO(self->rest) DO(self->entered) DO(self->foreign)           \
    DO(self->attributes) DO(self->keys) DO(self->values) DO(self->slot) DO(self->trace_state)

static int
span_traverse(HotSpan *self, visitproc visit, void *arg)
{
#define VISIT(field) Py_VISIT(field);
    EACH_OBJECT(VISIT, self)
    return 0;
}

static int
span_clear(HotSpan *self)
{
#define CLEAR(field) Py_CLEAR(field);
    EACH_OBJECT(CLEAR, self)
    return 0;
}

static void
span_dealloc(HotSpan *self)
{
    PyObject_GC_UnTrack(self);
    span_clear(self);
    Py_TYPE(self)->tp_free(self);
}

PyTypeObject HotSpanType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "aiobs.recorder._core.HotSpan",
    .tp_doc = "Begin and end of a span; aiobs.recorder.hot.HotSpan, compiled.",
    .tp_basicsize = sizeof(HotSpan),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_BASETYPE,
    .tp_new = PyType_GenericNew,
    .tp_traverse = (traverseproc)span_traverse,
    .tp_clear = (inquiry)span_clear,
    .tp_dealloc = (destructor)span_dealloc,
    .tp_methods = span_methods,
    .tp_members = span_members,
    .tp_getset = span_fields,
};

/* -- span(name, **attributes) ---------------------------------------------------------------------------- */
static PyObject *
open_slowly(PyObject *const *args, PyObject *names)
{
    PyObject *attributes = PyDict_New(), *made = NULL;
    Py_ssize_t count = names == NULL ? 0 : PyTuple_GET_SIZE(names), i = 0;
    while (attributes != NULL && i < count && PyDict_SetItem(attributes, PyTuple_GET_ITEM(names, i), args[1 + i]) == 0) {
        i++;
    }
    if (attributes != NULL && i == count) {
        made = PyObject_CallFunctionObjArgs(wiring.open_slowly, args[0], attributes, NULL);
    }
    Py_XDECREF(attributes);
    return made;
}

PyObject *
core_span(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t count, PyObject *names)
{
    if (count != 1) {
        PyErr_Format(PyExc_TypeError, "span() takes 1 positional argument but %zd were given", count);
        return NULL;
    }
    if (wiring.state == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "span() before wire()");
        return NULL;
    }
    PyObject *flight = STATE(flight);
    if (flight == NULL || flight == Py_None) {
        return STATE(sleeping) == Py_None ? or_none(wiring.nothing) : open_slowly(args, names);
    }
    Writer *writer = writer_of(flight);
    if (writer == NULL || !Py_IS_TYPE(writer, &WriterType) || !PyUnicode_CheckExact(args[0])) {
        return open_slowly(args, names);
    }
    if (writer->base[CONTROL_AT] & CONTROL_OFF) {
        return or_none(wiring.nothing);
    }
    PyObject *family = PyDict_GetItemWithError(wiring.families, args[0]);
    if (family == NULL) {
        return open_slowly(args, names);
    }
    Py_INCREF(family);
    Py_INCREF(flight);
    HotSpan *self = (HotSpan *)wiring.span_type->tp_alloc(wiring.span_type, 0);
    if (self == NULL) {
        Py_DECREF(family);
        Py_DECREF(flight);
        return NULL;
    }
    self->flight = flight;
    self->family = family;
    Py_ssize_t given = names == NULL ? 0 : PyTuple_GET_SIZE(names);
    if (given) {
        self->values = PyTuple_New(given);
        if (self->values == NULL) {
            Py_DECREF(self);
            return NULL;
        }
        for (Py_ssize_t i = 0; i < given; i++) {
            Py_INCREF(args[1 + i]);
            PyTuple_SET_ITEM(self->values, i, args[1 + i]);
        }
        Py_INCREF(names);
        self->keys = names;
    }
    return (PyObject *)self;
}
