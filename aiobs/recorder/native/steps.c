/* Begin and end of a phase of a training step. Steps themselves are opened and closed by the Python class on top. */
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
    char open;
    uint64_t start_ns, step_start;
    int64_t given; /* the token given last */
    PyObject *token, *flight;
    PyObject *memory;     /* a bytearray in place of an area of the flight record, or NULL */
    Py_ssize_t area;
    unsigned int count, begun;
    Open *stack;
    Py_ssize_t depth, room;
    PyObject *route;      /* the route that `place` was computed for, NULL where it has to be computed */
    Place place;          /* of spans begun in the innermost phase */
};

/* Which steps belong to the thread whose Python state has this id (an operating system thread that comes back to
   Python from a foreign library has a new one each time). */
static __thread struct {
    uint64_t state_id;
    HotSteps *steps;
} here;

static PyObject *name_begin, *name_prepare, *name_steps, *name_context;

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

/* -- phases ---------------------------------------------------------------------------------------------- */
/* Begins a phase; its token, -1 where it is not recorded, -2 with an error. */
static int64_t
enter(HotSteps *self, unsigned int phase, uint64_t start)
{
    if (!self->open || self->flight != STATE(flight)) {
        PyObject *at = PyLong_FromUnsignedLongLong(start), *done = NULL;
        if (at != NULL) {
            done = PyObject_CallMethodObjArgs((PyObject *)self, name_begin, Py_None, at, NULL);
            Py_DECREF(at);
        }
        if (done == NULL) {
            return -2;
        }
        Py_DECREF(done);
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
    PyObject *foreign = STATE(foreign);
    if (foreign != NULL && foreign != Py_None) {
        PyObject *seen = PyObject_CallNoArgs(foreign), *first = seen == NULL ? NULL : PySequence_GetItem(seen, 0);
        Py_XDECREF(seen);
        if (first == NULL) {
            return -2;
        }
        Py_XSETREF(self->token, first);
    }
    return token;
}

static void
leave(HotSteps *self, int64_t token, uint64_t end)
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
steps_enter(HotSteps *self, PyObject *const *args, Py_ssize_t count, PyObject *names)
{
    uint64_t start;
    if (wiring.state == NULL || time_given(args, count, 1, names, "start_ns", &start) < 0) {
        return wiring.state == NULL ? PyErr_Format(PyExc_RuntimeError, "enter() before wire()") : NULL;
    }
    long phase = PyLong_AsLong(args[0]);
    if (phase == -1 && PyErr_Occurred()) {
        return NULL;
    }
    int64_t token = enter(self, (unsigned int)phase, start);
    return token == -2 ? NULL : PyLong_FromLongLong(token);
}

static PyObject *
steps_leave(HotSteps *self, PyObject *const *args, Py_ssize_t count, PyObject *names)
{
    uint64_t end;
    if (time_given(args, count, 1, names, "end_ns", &end) < 0) {
        return NULL;
    }
    int64_t token = PyLong_AsLongLong(args[0]);
    if (token == -1 && PyErr_Occurred()) {
        return NULL;
    }
    leave(self, token, end);
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
static void
drop_stack(HotSteps *self)
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
    drop_stack(self);
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

static PyGetSetDef steps_fields[] = {
    {"_stack", (getter)get_stack, (setter)set_stack, NULL, NULL},
    {"token", (getter)get_token, (setter)set_token, NULL, NULL},
    {"_flight", (getter)get_flight, (setter)set_flight, NULL, NULL},
    {"_spare", (getter)get_spare, (setter)set_spare, NULL, NULL},
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
    {NULL, 0, 0, 0, NULL},
};

static PyMethodDef steps_methods[] = {
    {"enter", (PyCFunction)(void (*)(void))steps_enter, METH_FASTCALL | METH_KEYWORDS,
     "enter($self, phase, start_ns=None)\n--\n\nBegin a phase (id from ``phase_id``); opens a step where none is open. "
     "Returns a token for `leave`."},
    {"leave", (PyCFunction)(void (*)(void))steps_leave, METH_FASTCALL | METH_KEYWORDS,
     "leave($self, token, end_ns=None)\n--\n\nEnd the phase that `enter` gave this token for, now or at `end_ns`; a "
     "token of an earlier step is ignored."},
    {"_adopt", (PyCFunction)steps_adopt, METH_NOARGS, "Be the steps of the calling thread."},
    {NULL, NULL, 0, NULL},
};

static int
steps_traverse(HotSteps *self, visitproc visit, void *arg)
{
    Py_VISIT(self->token);
    Py_VISIT(self->flight);
    Py_VISIT(self->route);
    for (Py_ssize_t i = 0; i < self->depth; i++) {
        Py_VISIT(self->stack[i].token);
    }
    return 0;
}

static int
steps_clear(HotSteps *self)
{
    drop_stack(self);
    Py_CLEAR(self->token);
    Py_CLEAR(self->flight);
    Py_CLEAR(self->route);
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

/* -- a phase as a context manager ------------------------------------------------------------------------ */
typedef struct {
    HotSteps *steps; /* NULL where it was not recorded */
    int64_t token;
    unsigned long thread;
} Entered;

typedef struct {
    PyObject_HEAD
    PyObject *name;
    unsigned int id;
    long long generation;
    Entered *entered;
    Py_ssize_t depth, room;
} HotPhase;

static int
note_entered(HotPhase *self, HotSteps *steps, int64_t token)
{
    if (self->depth == self->room) {
        Py_ssize_t room = self->room ? 2 * self->room : 4;
        Entered *grown = PyMem_Realloc(self->entered, (size_t)room * sizeof(Entered));
        if (grown == NULL) {
            PyErr_NoMemory();
            return -1;
        }
        self->entered = grown;
        self->room = room;
    }
    Py_XINCREF(steps);
    self->entered[self->depth++] = (Entered){steps, token, PyThread_get_thread_ident()};
    return 0;
}

/* Begins the phase; 0, or -1 with an error. `steps` is a new reference, NULL where nothing is recorded. */
static int
phase_begin(HotPhase *self, HotSteps **steps, int64_t *token)
{
    if (wiring.state == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "a phase before wire()");
        return -1;
    }
    PyObject *generation = STATE(generation);
    long long now = generation == NULL ? -1 : PyLong_AsLongLong(generation);
    if (self->generation != now) {
        PyObject *done = PyObject_CallMethodNoArgs((PyObject *)self, name_prepare);
        if (done == NULL) {
            return -1;
        }
        Py_DECREF(done);
    }
    if (self->id == 0) {
        return 0;
    }
    HotSteps *found = steps_here();
    Py_XINCREF(found);
    if (found == NULL) {
        found = (HotSteps *)PyObject_CallMethodNoArgs((PyObject *)self, name_steps);
        if (found == NULL) {
            return -1;
        }
        if (!PyObject_TypeCheck((PyObject *)found, &HotStepsType)) {
            Py_DECREF(found);
            PyErr_SetString(PyExc_TypeError, "_steps(): steps are wanted");
            return -1;
        }
    }
    *steps = found;
    *token = enter(found, self->id, now_ns());
    return *token == -2 ? -1 : 0;
}

static PyObject *
phase_enter(HotPhase *self, PyObject *Py_UNUSED(none))
{
    HotSteps *steps = NULL;
    int64_t token = -1;
    if (phase_begin(self, &steps, &token) < 0 && swallow_fault("recorder.phase.begin") < 0) {
        Py_XDECREF(steps);
        return NULL;
    }
    int failed = note_entered(self, steps, token);
    Py_XDECREF(steps);
    if (failed) {
        return NULL;
    }
    Py_INCREF(self);
    return (PyObject *)self;
}

static PyObject *
phase_exit(HotPhase *self, PyObject *const *Py_UNUSED(args), Py_ssize_t Py_UNUSED(count))
{
    uint64_t end = now_ns();
    unsigned long thread = PyThread_get_thread_ident();
    for (Py_ssize_t i = self->depth - 1; i >= 0; i--) {
        Entered found = self->entered[i];
        if (found.thread == thread) { /* another thread may be inside the same phase */
            self->depth--;
            memmove(&self->entered[i], &self->entered[i + 1], (size_t)(self->depth - i) * sizeof(Entered));
            if (found.steps != NULL) {
                leave(found.steps, found.token, end);
                Py_DECREF(found.steps);
            }
            break;
        }
    }
    Py_RETURN_NONE;
}

static PyMethodDef phase_methods[] = {
    {"__enter__", (PyCFunction)phase_enter, METH_NOARGS, NULL},
    {"__exit__", (PyCFunction)(void (*)(void))phase_exit, METH_FASTCALL, NULL},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef phase_members[] = {
    {"name", T_OBJECT_EX, offsetof(HotPhase, name), 0, NULL},
    {"_id", T_UINT, offsetof(HotPhase, id), 0, NULL},
    {"_generation", T_LONGLONG, offsetof(HotPhase, generation), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};

static int
phase_traverse(HotPhase *self, visitproc visit, void *arg)
{
    Py_VISIT(self->name);
    for (Py_ssize_t i = 0; i < self->depth; i++) {
        Py_VISIT(self->entered[i].steps);
    }
    return 0;
}

static int
phase_clear(HotPhase *self)
{
    Py_CLEAR(self->name);
    while (self->depth > 0) {
        HotSteps *steps = self->entered[--self->depth].steps;
        Py_XDECREF(steps);
    }
    return 0;
}

static void
phase_dealloc(HotPhase *self)
{
    PyObject_GC_UnTrack(self);
    phase_clear(self);
    PyMem_Free(self->entered);
    Py_TYPE(self)->tp_free(self);
}

PyTypeObject HotPhaseType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "aiobs.recorder._core.HotPhase",
    .tp_doc = "A phase as a context manager; aiobs.recorder.phases.HotPhase, compiled.",
    .tp_basicsize = sizeof(HotPhase),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_BASETYPE,
    .tp_new = PyType_GenericNew,
    .tp_traverse = (traverseproc)phase_traverse,
    .tp_clear = (inquiry)phase_clear,
    .tp_dealloc = (destructor)phase_dealloc,
    .tp_methods = phase_methods,
    .tp_members = phase_members,
};

int
steps_names(void)
{
    return (name_begin = PyUnicode_InternFromString("begin")) != NULL &&
                   (name_prepare = PyUnicode_InternFromString("_prepare")) != NULL &&
                   (name_steps = PyUnicode_InternFromString("_steps")) != NULL &&
                   (name_context = PyUnicode_InternFromString("context")) != NULL
               ? 0
               : -1;
}
