/* The steps of a thread as Python sees them, and begin and end of their phases. */
#include "steps.h"

/* Which steps belong to the thread whose Python state has this id (an operating system thread that comes back to
   Python from a foreign library has a new one each time). */
static __thread struct {
    uint64_t state_id;
    HotSteps *steps;
} here;

static PyObject *name_context;

HotSteps *
steps_here(void)
{
    if (here.steps == NULL || here.state_id != PyThreadState_GetID(PyThreadState_Get())) {
        return NULL;
    }
    return here.steps;
}

int
steps_open(const HotSteps *steps, uint64_t *since, PyObject **inside)
{
    *since = steps->start_ns;
    *inside = steps->token;
    return steps->open;
}

int
steps_place(HotSteps *steps, Place *place)
{
    if (steps->route == NULL || steps->route != STATE(route)) {
        PyObject *route = STATE(route);
        Py_XINCREF(route);
        PyObject *context = PyObject_CallMethodNoArgs((PyObject *)steps, name_context);
        int plain = context != NULL && place_of_context(context, &steps->place);
        Py_XDECREF(context);
        if (!plain) {
            Py_XDECREF(route);
            return PyErr_Occurred() ? -1 : 0;
        }
        Py_XSETREF(steps->route, route);
    }
    *place = steps->place;
    return 1;
}

static int
push(HotSteps *self, uint16_t index, uint64_t start, PyObject *token, int64_t own)
{
    if (self->depth == self->room) {
        Py_ssize_t room = self->room ? 2 * self->room : 8;
        Open *grown = PyMem_Realloc(self->stack, (size_t)room * sizeof(Open));
        if (grown == NULL) {
            PyErr_NoMemory();
            return -1;
        }
        self->stack = grown;
        self->room = room;
    }
    Py_XINCREF(token);
    self->stack[self->depth++] = (Open){index, start, token, own};
    return 0;
}

int
steps_look_outside(HotSteps *self)
{
    PyObject *foreign = STATE(foreign);
    if (foreign == NULL || foreign == Py_None) {
        return 0;
    }
    PyObject *seen = PyObject_CallNoArgs(foreign), *first = seen == NULL ? NULL : PySequence_GetItem(seen, 0);
    Py_XDECREF(seen);
    if (first == NULL) {
        return -1;
    }
    Py_XSETREF(self->token, first);
    return 0;
}

/* -- phases ---------------------------------------------------------------------------------------------- */
int64_t
steps_enter(HotSteps *self, unsigned int phase, uint64_t start)
{
    if (!self->open || self->flight != STATE(flight)) {
        if (step_begin(self, Py_None, start) < 0) {
            return -2;
        }
        if (!self->open) {
            return -1;
        }
    }
    unsigned int index = self->count;
    char *area = area_of(self);
    self->begun++;
    if (index >= AREA_ENTRIES || area == NULL) {
        return -1;
    }
    if (push(self, (uint16_t)index, start, self->token, ++self->given) < 0) {
        return -2;
    }
    Entry *entry = (Entry *)(area + HEAD_BYTES + COUNT_BYTES) + index;
    entry->phase = (uint16_t)phase;
    entry->outer = self->depth > 1 ? self->stack[self->depth - 2].index : NO_SLOT;
    entry->thread = thread_number();
    entry->start = start;
    entry->end = 0;
    Count count = {(uint16_t)(index + 1), 0, self->begun};
    uint64_t whole;
    memcpy(&whole, &count, sizeof whole);
    publish((uint64_t *)(area + HEAD_BYTES), whole);
    self->count = index + 1;
    Py_CLEAR(self->route);
    self->start_ns = start;
    int64_t token = self->given;
    return steps_look_outside(self) < 0 ? -2 : token;
}

void
steps_leave(HotSteps *self, int64_t token, uint64_t end)
{
    Py_ssize_t last = self->depth - 1;
    while (last >= 0 && self->stack[last].own != token) {
        last--;
    }
    if (last < 0 || !self->open) {
        return;
    }
    Py_CLEAR(self->route);
    for (int found = 0; !found && self->depth > 0;) {
        char *area = area_of(self); /* asked anew, as dropping a token may run anything */
        Open top = self->stack[--self->depth];
        if (area != NULL) {
            publish(&((Entry *)(area + HEAD_BYTES + COUNT_BYTES) + top.index)->end, end);
        }
        found = top.own == token;
        self->start_ns = self->depth ? self->stack[self->depth - 1].start : self->step_start;
        Py_XSETREF(self->token, top.token);
    }
}

/* An optional time in ns, now by default; 0, or -1 with an error. */
static int
time_given(PyObject *const *args, Py_ssize_t count, Py_ssize_t which, PyObject *names, const char *name, uint64_t *time)
{
    Py_ssize_t named = names == NULL ? 0 : PyTuple_GET_SIZE(names);
    if (count < which || count + named > which + 1 ||
        (named && PyUnicode_CompareWithASCIIString(PyTuple_GET_ITEM(names, 0), name) != 0)) {
        PyErr_Format(PyExc_TypeError, "takes %zd arguments and optionally %s", which, name);
        return -1;
    }
    if (count + named == which || args[which] == Py_None) {
        *time = now_ns();
        return 0;
    }
    *time = PyLong_AsUnsignedLongLong(args[which]);
    return *time == (uint64_t)-1 && PyErr_Occurred() ? -1 : 0;
}

static PyObject *
enter(HotSteps *self, PyObject *const *args, Py_ssize_t count, PyObject *names)
{
    uint64_t start;
    if (wiring.state == NULL || time_given(args, count, 1, names, "start_ns", &start) < 0) {
        return wiring.state == NULL ? PyErr_Format(PyExc_RuntimeError, "enter() before wire()") : NULL;
    }
    long phase = PyLong_AsLong(args[0]);
    if (phase == -1 && PyErr_Occurred()) {
        return NULL;
    }
    int64_t token = steps_enter(self, (unsigned int)phase, start);
    return token == -2 ? NULL : PyLong_FromLongLong(token);
}

static PyObject *
leave(HotSteps *self, PyObject *const *args, Py_ssize_t count, PyObject *names)
{
    uint64_t end;
    if (time_given(args, count, 1, names, "end_ns", &end) < 0) {
        return NULL;
    }
    int64_t token = PyLong_AsLongLong(args[0]);
    if (token == -1 && PyErr_Occurred()) {
        return NULL;
    }
    steps_leave(self, token, end);
    Py_RETURN_NONE;
}

static PyObject *
steps_adopt(HotSteps *self, PyObject *Py_UNUSED(none))
{
    here.state_id = PyThreadState_GetID(PyThreadState_Get());
    here.steps = self;
    Py_RETURN_NONE;
}

/* -- what the Python class on top sees ------------------------------------------------------------------- */
void
steps_drop_stack(HotSteps *self)
{
    while (self->depth > 0) {
        PyObject *token = self->stack[--self->depth].token;
        Py_XDECREF(token);
    }
}

static PyObject *
get_stack(HotSteps *self, void *Py_UNUSED(closure))
{
    PyObject *made = PyList_New(0);
    for (Py_ssize_t i = 0; made != NULL && i < self->depth; i++) {
        Open *open = &self->stack[i];
        PyObject *item = Py_BuildValue("(iKNL)", (int)open->index, (unsigned long long)open->start,
                                       or_none(open->token), (long long)open->own);
        if (item == NULL || PyList_Append(made, item) < 0) {
            Py_CLEAR(made);
        }
        Py_XDECREF(item);
    }
    return made;
}

static int
set_stack(HotSteps *self, PyObject *value, void *Py_UNUSED(closure))
{
    if (value == NULL || !PyList_Check(value)) {
        PyErr_SetString(PyExc_TypeError, "_stack: a list of (index, start, token, own)");
        return -1;
    }
    steps_drop_stack(self);
    Py_CLEAR(self->route);
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(value); i++) {
        int index;
        unsigned long long start;
        long long own;
        PyObject *token;
        if (!PyArg_ParseTuple(PyList_GET_ITEM(value, i), "iKOL", &index, &start, &token, &own) || index < 0 ||
            index >= AREA_ENTRIES || push(self, (uint16_t)index, start, token, own) < 0) {
            if (!PyErr_Occurred()) {
                PyErr_SetString(PyExc_ValueError, "_stack: no such entry");
            }
            return -1;
        }
    }
    return 0;
}

static PyObject *
get_token(HotSteps *self, void *Py_UNUSED(closure))
{
    return or_none(self->token);
}

static int
set_token(HotSteps *self, PyObject *value, void *Py_UNUSED(closure))
{
    Py_XINCREF(value);
    Py_XSETREF(self->token, value);
    return 0;
}

static PyObject *
get_flight(HotSteps *self, void *Py_UNUSED(closure))
{
    return or_none(self->flight);
}

static int
set_flight(HotSteps *self, PyObject *value, void *Py_UNUSED(closure))
{
    value = value == Py_None ? NULL : value;
    Py_XINCREF(value);
    Py_XSETREF(self->flight, value);
    return 0;
}

static PyObject *
get_spare(HotSteps *self, void *Py_UNUSED(closure))
{
    return or_none(self->memory);
}

static int
set_spare(HotSteps *self, PyObject *value, void *Py_UNUSED(closure))
{
    value = value == Py_None ? NULL : value;
    if (value != NULL && (!PyByteArray_CheckExact(value) || PyByteArray_GET_SIZE(value) != AREA_BYTES)) {
        PyErr_SetString(PyExc_TypeError, "_spare: a bytearray of an area's size, or None");
        return -1;
    }
    Py_XINCREF(value);
    Py_XSETREF(self->memory, value);
    return 0;
}

static PyObject *
get_attributes(HotSteps *self, void *Py_UNUSED(closure))
{
    if (self->attributes == NULL) {
        self->attributes = PyDict_New();
    }
    Py_XINCREF(self->attributes);
    return self->attributes;
}

static int
set_attributes(HotSteps *self, PyObject *value, void *Py_UNUSED(closure))
{
    if (value == NULL || !PyDict_CheckExact(value)) {
        PyErr_SetString(PyExc_TypeError, "_attributes: a dict");
        return -1;
    }
    Py_INCREF(value);
    Py_XSETREF(self->attributes, value);
    return 0;
}

static PyGetSetDef steps_fields[] = {
    {"_stack", (getter)get_stack, (setter)set_stack, NULL, NULL},
    {"token", (getter)get_token, (setter)set_token, NULL, NULL},
    {"_flight", (getter)get_flight, (setter)set_flight, NULL, NULL},
    {"_spare", (getter)get_spare, (setter)set_spare, NULL, NULL},
    {"_attributes", (getter)get_attributes, (setter)set_attributes, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMemberDef steps_members[] = {
    {"open", T_BOOL, offsetof(HotSteps, open), 0, NULL},
    {"start_ns", T_ULONGLONG, offsetof(HotSteps, start_ns), 0, NULL},
    {"_step_start", T_ULONGLONG, offsetof(HotSteps, step_start), 0, NULL},
    {"_given", T_LONGLONG, offsetof(HotSteps, given), 0, NULL},
    {"_area", T_PYSSIZET, offsetof(HotSteps, area), 0, NULL},
    {"_count", T_UINT, offsetof(HotSteps, count), 0, NULL},
    {"_begun", T_UINT, offsetof(HotSteps, begun), 0, NULL},
    {"_marked", T_UINT, offsetof(HotSteps, marked), 0, NULL},
    {"_serial", T_ULONGLONG, offsetof(HotSteps, serial), 0, NULL},
    {"_context", T_OBJECT, offsetof(HotSteps, context), 0, NULL},
    {"number", T_ULONGLONG, offsetof(HotSteps, number), 0, NULL},
    {"provisional_end_ns", T_ULONGLONG, offsetof(HotSteps, provisional_end), 0, NULL},
    {"explicit", T_BOOL, offsetof(HotSteps, explicit), 0, NULL},
    {"claimed", T_BOOL, offsetof(HotSteps, claimed), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyMethodDef steps_methods[] = {
    {"enter", (PyCFunction)(void (*)(void))enter, METH_FASTCALL | METH_KEYWORDS,
     "enter($self, phase, start_ns=None)\n--\n\nBegin a phase (id from ``phase_id``); opens a step where none is open. "
     "Returns a token for `leave`."},
    {"leave", (PyCFunction)(void (*)(void))leave, METH_FASTCALL | METH_KEYWORDS,
     "leave($self, token, end_ns=None)\n--\n\nEnd the phase that `enter` gave this token for, now or at `end_ns`; a "
     "token of an earlier step is ignored."},
    {"begin", (PyCFunction)(void (*)(void))step_begin_called, METH_FASTCALL | METH_KEYWORDS,
     "begin($self, number=None, start_ns=None)\n--\n\nBegin a step; an open one is closed first."},
    {"mark_end", (PyCFunction)(void (*)(void))step_mark_end_called, METH_FASTCALL | METH_KEYWORDS,
     "mark_end($self, at_ns=None)\n--\n\nAn optimizer step has just ended: the step may be over here, or go on with "
     "another optimizer."},
    {"close", (PyCFunction)(void (*)(void))step_close_called, METH_FASTCALL | METH_KEYWORDS,
     "close($self, at_ns=None, *, skipped=False)\n--\n\nEnd the step at `at_ns`, else at the provisional end, else now; "
     "write its record."},
    {"_adopt", (PyCFunction)steps_adopt, METH_NOARGS, "Be the steps of the calling thread."},
    {NULL, NULL, 0, NULL},
};

static int
steps_traverse(HotSteps *self, visitproc visit, void *arg)
{
    Py_VISIT(self->token);
    Py_VISIT(self->flight);
    Py_VISIT(self->route);
    Py_VISIT(self->attributes);
    Py_VISIT(self->context);
    for (Py_ssize_t i = 0; i < self->depth; i++) {
        Py_VISIT(self->stack[i].token);
    }
    return 0;
}

static int
steps_clear(HotSteps *self)
{
    steps_drop_stack(self);
    Py_CLEAR(self->token);
    Py_CLEAR(self->flight);
    Py_CLEAR(self->route);
    Py_CLEAR(self->attributes);
    Py_CLEAR(self->context);
    return 0;
}

static void
steps_dealloc(HotSteps *self)
{
    PyObject_GC_UnTrack(self);
    if (here.steps == self) {
        here.steps = NULL;
    }
    steps_clear(self);
    Py_CLEAR(self->memory);
    PyMem_Free(self->stack);
    Py_TYPE(self)->tp_free(self);
}

PyTypeObject HotStepsType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "aiobs.recorder._core.HotSteps",
    .tp_doc = "Begin and end of a thread's phases; aiobs.recorder.phases.HotSteps, compiled.",
    .tp_basicsize = sizeof(HotSteps),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_BASETYPE,
    .tp_new = PyType_GenericNew,
    .tp_traverse = (traverseproc)steps_traverse,
    .tp_clear = (inquiry)steps_clear,
    .tp_dealloc = (destructor)steps_dealloc,
    .tp_methods = steps_methods,
    .tp_members = steps_members,
    .tp_getset = steps_fields,
};

int
steps_names(void)
{
    return (name_context = PyUnicode_InternFromString("context")) != NULL ? 0 : -1;
}
