/* A phase of a training step as a context manager. */
#include "steps.h"

static PyObject *name_prepare, *name_steps;

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
    *token = steps_enter(found, self->id, now_ns());
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
                steps_leave(found.steps, found.token, end);
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
phase_names(void)
{
    return (name_prepare = PyUnicode_InternFromString("_prepare")) != NULL &&
                   (name_steps = PyUnicode_InternFromString("_steps")) != NULL
               ? 0
               : -1;
}
