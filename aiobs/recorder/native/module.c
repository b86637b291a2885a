/* aiobs.recorder._core: the module, the mapped file, ids. */
#include "core.h"

#include <pthread.h>
#include <sys/syscall.h>
#include <unistd.h>

Wiring wiring;

/* -- threads and random ids ------------------------------------------------------------------------------ */
static __thread uint32_t thread_cached;
static uint64_t random_state[4];
static int seeded;

uint32_t
thread_number(void)
{
    if (!LIKELY(thread_cached)) {
        thread_cached = (uint32_t)syscall(SYS_gettid);
    }
    return thread_cached;
}

/* In a forked child, before anything else of it runs. */
static void
after_fork(void)
{
    thread_cached = 0;
    seeded = 0;
}

static void
seed(void)
{
    struct timespec t;
    /* /dev/urandom's source without a descriptor; where a sandbox forbids it, time, pid and addresses must do. */
    if (syscall(SYS_getrandom, random_state, sizeof random_state, 0) != (long)sizeof random_state) {
        clock_gettime(CLOCK_REALTIME, &t);
        random_state[0] ^= (uint64_t)t.tv_sec << 32 ^ (uint64_t)t.tv_nsec;
        random_state[1] += (uint64_t)getpid() * 0x9E3779B97F4A7C15u;
        random_state[2] ^= (uint64_t)(uintptr_t)&t;
        random_state[3] += now_ns();
    }
    random_state[0] |= 1; /* the state must not be all zero */
    seeded = 1;
}

static inline uint64_t
rotated(uint64_t x, int by)
{
    return x << by | x >> (64 - by);
}

/* xoshiro256** (Blackman and Vigna, public domain). */
uint64_t
random_id(void)
{
    if (!LIKELY(seeded)) {
        seed();
    }
    uint64_t *s = random_state, result = rotated(s[1] * 5, 7) * 9, shifted = s[1] << 17;
    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= shifted;
    s[3] = rotated(s[3], 45);
    return LIKELY(result) ? result : 1;
}

int
swallow_fault(const char *place)
{
    PyObject *type, *error, *trace;
    if (wiring.swallow == NULL) {
        return -1;
    }
    PyErr_Fetch(&type, &error, &trace);
    PyErr_NormalizeException(&type, &error, &trace);
    if (error == NULL || !PyObject_IsInstance(error, PyExc_Exception)) {
        PyErr_Restore(type, error, trace); /* KeyboardInterrupt and the like are not ours to keep */
        return -1;
    }
    if (trace != NULL) {
        PyException_SetTraceback(error, trace);
    }
    PyObject *done = PyObject_CallFunction(wiring.swallow, "sO", place, error);
    Py_XDECREF(type);
    Py_XDECREF(error);
    Py_XDECREF(trace);
    Py_XDECREF(done);
    return done == NULL ? -1 : 0;
}

/* -- places ---------------------------------------------------------------------------------------------- */
static int
read_bytes(PyObject *context, const char *name, Py_ssize_t size, uint64_t *to)
{
    PyObject *found = PyObject_GetAttrString(context, name);
    int fits = found != NULL && PyBytes_CheckExact(found) && PyBytes_GET_SIZE(found) == size;
    if (fits) {
        memcpy(to, PyBytes_AS_STRING(found), (size_t)size);
        for (Py_ssize_t i = 0; i < size / 8; i++) {
            to[i] = __builtin_bswap64(to[i]);
        }
    }
    Py_XDECREF(found);
    return fits;
}

static int
is_false(PyObject *context, const char *name)
{
    PyObject *found = PyObject_GetAttrString(context, name);
    int truth = found == NULL ? -1 : PyObject_IsTrue(found);
    Py_XDECREF(found);
    return truth < 0 ? -1 : !truth;
}

int
place_of_context(PyObject *context, Place *place)
{
    uint64_t trace[2], span;
    int plain = read_bytes(context, "trace_id", 16, trace) && read_bytes(context, "span_id", 8, &span) &&
                is_false(context, "remote") == 1 && is_false(context, "trace_state") == 1;
    int outside = plain ? is_false(context, "in_step") : -1;
    if (outside < 0) {
        PyErr_Clear();
        return 0;
    }
    *place = (Place){trace[0], trace[1], span, outside ? KIND_SPAN : KIND_SPAN | FLAG_IN_STEP << 8};
    return 1;
}

/* -- Writer ---------------------------------------------------------------------------------------------- */
static int
writer_map(Writer *self, PyObject *memory)
{
    Py_buffer view;
    if (PyObject_GetBuffer(memory, &view, PyBUF_WRITABLE) < 0) {
        return -1;
    }
    if ((uint64_t)view.len < self->ring_at + self->cells * CELL_BYTES) {
        PyBuffer_Release(&view);
        PyErr_SetString(PyExc_ValueError, "memory: shorter than the ring it shall hold");
        return -1;
    }
    Py_buffer before = self->view;
    self->view = view;
    self->base = view.buf;
    if (before.obj != NULL) {
        PyBuffer_Release(&before);
    }
    return 0;
}

static PyObject *
writer_new(PyTypeObject *type, PyObject *args, PyObject *Py_UNUSED(named))
{
    PyObject *memory, *free;
    unsigned long long ring_at, cells, first;
    if (!PyArg_ParseTuple(args, "OO!KKK", &memory, &PyList_Type, &free, &ring_at, &cells, &first)) {
        return NULL;
    }
    if (cells == 0 || ring_at < HEAD_BYTES || cells > UINT32_MAX || ring_at > UINT32_MAX) {
        PyErr_SetString(PyExc_ValueError, "ring_at, cells: out of range");
        return NULL;
    }
    Writer *self = (Writer *)type->tp_alloc(type, 0);
    if (self != NULL) {
        self->ring_at = ring_at;
        self->cells = cells;
        self->next_seq = first;
        Py_INCREF(free);
        self->free = free;
        if (writer_map(self, memory) < 0) {
            Py_CLEAR(self);
        }
    }
    return (PyObject *)self;
}

static int
writer_traverse(Writer *self, visitproc visit, void *arg)
{
    Py_VISIT(self->free);
    Py_VISIT(self->view.obj);
    return 0;
}

static void
writer_dealloc(Writer *self)
{
    PyObject_GC_UnTrack(self);
    Py_CLEAR(self->free);
    if (self->view.obj != NULL) {
        PyBuffer_Release(&self->view);
    }
    Py_TYPE(self)->tp_free(self);
}

static PyObject *
writer_next(Writer *self, PyObject *Py_UNUSED(none))
{
    return PyLong_FromUnsignedLongLong(self->next_seq++);
}

static PyObject *
writer_move(Writer *self, PyObject *memory)
{
    if (writer_map(self, memory) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyMethodDef writer_methods[] = {
    {"next_seq", (PyCFunction)writer_next, METH_NOARGS, "The next sequence number."},
    {"move", (PyCFunction)writer_move, METH_O, "Write to another memory from now on."},
    {NULL, NULL, 0, NULL},
};

PyTypeObject WriterType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "aiobs.recorder._core.Writer",
    .tp_doc = "Writer(memory, free, ring_at, cells, first): a flight record's memory and sequence numbers.",
    .tp_basicsize = sizeof(Writer),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .tp_new = writer_new,
    .tp_traverse = (traverseproc)writer_traverse,
    .tp_dealloc = (destructor)writer_dealloc,
    .tp_methods = writer_methods,
};

/* -- the module ------------------------------------------------------------------------------------------ */
static Py_ssize_t
slot_offset(PyObject *type, const char *name)
{
    PyObject *found = PyObject_GetAttrString(type, name);
    Py_ssize_t offset = -1;
    if (found != NULL && Py_IS_TYPE(found, &PyMemberDescr_Type)) {
        offset = ((PyMemberDescrObject *)found)->d_member->offset;
    } else if (found != NULL) {
        PyErr_Format(PyExc_TypeError, "%S: %s is no slot", type, name);
    }
    Py_XDECREF(found);
    return offset;
}

static PyObject *
core_wire(PyObject *Py_UNUSED(module), PyObject *args, PyObject *named)
{
    static char *keys[] = {"state",   "flight_type", "family_type", "span_type", "nothing", "current",
                           "families", "open_slowly", "swallow",     NULL};
    Wiring made = {0};
    PyObject *flight_type, *family_type;
    if (!PyArg_ParseTupleAndKeywords(args, named, "$OO!O!O!OO!O!OO", keys, &made.state, &PyType_Type, &flight_type,
                                     &PyType_Type, &family_type, &PyType_Type, &made.span_type, &made.nothing,
                                     &PyContextVar_Type, &made.current, &PyDict_Type, &made.families,
                                     &made.open_slowly, &made.swallow)) {
        return NULL;
    }
    if (!PyType_IsSubtype(made.span_type, &HotSpanType) || made.span_type->tp_basicsize != HotSpanType.tp_basicsize) {
        PyErr_SetString(PyExc_TypeError, "span_type: derives from HotSpan and adds no slots");
        return NULL;
    }
    PyObject *state_type = (PyObject *)Py_TYPE(made.state);
    struct {
        PyObject *type;
        const char *name;
        Py_ssize_t *to;
    } wanted[] = {
        {state_type, "flight", &made.state_flight},         {state_type, "sleeping", &made.state_sleeping},
        {state_type, "ambient", &made.state_ambient},       {state_type, "outside", &made.state_outside},
        {state_type, "joined", &made.state_joined},         {state_type, "join_limit", &made.state_join_limit},
        {state_type, "foreign", &made.state_foreign},       {state_type, "surrounded", &made.state_surrounded},
        {state_type, "route", &made.state_route},           {state_type, "generation", &made.state_generation},
        {flight_type, "writer", &made.flight_writer},
        {family_type, "lead", &made.family_lead},           {family_type, "recent", &made.family_recent},
    };
    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++) {
        *wanted[i].to = slot_offset(wanted[i].type, wanted[i].name);
        if (*wanted[i].to < 0) {
            return NULL;
        }
    }
    /* Wired once per process; what it holds lives as long as the process. */
    PyObject *held[] = {made.state,   made.nothing, made.current, made.families,
                        made.swallow, made.open_slowly, (PyObject *)made.span_type};
    for (size_t i = 0; i < sizeof held / sizeof *held; i++) {
        Py_INCREF(held[i]);
    }
    wiring = made;
    Py_RETURN_NONE;
}

static PyObject *
core_reset(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(none))
{
    forget_shapes();
    Py_RETURN_NONE;
}

static PyObject *
core_thread_number(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(none))
{
    return PyLong_FromUnsignedLong(thread_number());
}

static PyObject *
core_random_id(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(none))
{
    return PyLong_FromUnsignedLongLong(random_id());
}

static PyMethodDef methods[] = {
    {"wire", (PyCFunction)(void (*)(void))core_wire, METH_VARARGS | METH_KEYWORDS, "Connect with the Python side."},
    {"span", (PyCFunction)(void (*)(void))core_span, METH_FASTCALL | METH_KEYWORDS,
     "span($module, name, /, **attributes)\n--\n\nA span, to be used with ``with``; see :class:`Span`.\n\n"
     "Args:\n    name: low-cardinality name; put what varies into attributes.\n"
     "    attributes: str, bool, int, float or lists of these."},
    {"reset", core_reset, METH_NOARGS, "Forget what was remembered for one flight record."},
    {"thread_number", core_thread_number, METH_NOARGS, "The calling thread's native id."},
    {"random_id", core_random_id, METH_NOARGS, "64 random bits, not all zero."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "aiobs.recorder._core",
    .m_doc = "The recorder's hot path, compiled: the same bytes as its hot and phases modules write.",
    .m_size = -1,
    .m_methods = methods,
};

PyMODINIT_FUNC
PyInit__core(void)
{
    static int watching;
    struct {
        const char *name;
        PyTypeObject *type;
    } types[] = {
        {"Writer", &WriterType},     {"Shape", &ShapeType},       {"HotSpan", &HotSpanType},
        {"HotSteps", &HotStepsType}, {"HotPhase", &HotPhaseType},
    };
    PyObject *module = PyModule_Create(&definition);
    if (module == NULL || span_names() < 0 || steps_names() < 0 || step_names() < 0 || phase_names() < 0) {
        Py_XDECREF(module);
        return NULL;
    }
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        if (PyType_Ready(types[i].type) < 0 ||
            PyModule_AddObjectRef(module, types[i].name, (PyObject *)types[i].type) < 0) {
            Py_DECREF(module);
            return NULL;
        }
    }
    PyObject *layout = Py_BuildValue("(iiiiiii)", FACE_VERSION, FORMAT_VERSION, CONTROL_AT, HEAD_BYTES, CELL_BYTES, AREA_ENTRIES, ENTRY_BYTES);
    if (layout == NULL || PyModule_AddObjectRef(module, "LAYOUT", layout) < 0) {
        Py_XDECREF(layout);
        Py_DECREF(module);
        return NULL;
    }
    Py_DECREF(layout);
    if (!watching) {
        watching = pthread_atfork(NULL, NULL, after_fork) == 0;
    }
    return module;
}
