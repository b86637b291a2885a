/* Begin and end of one training step, where nothing about it is special; all else is left to the Python class on top. */
#include "steps.h"

static PyObject *name_begin, *name_close;

/* Sorts the arguments of a call into `found` by `wanted`, of which the first `positional` need no name; those not
   given are left as they are. 0, or -1 with an error. */
static int
sort_arguments(PyObject *const *args, Py_ssize_t count, PyObject *names, const char *const wanted[2],
               Py_ssize_t positional, PyObject *found[2])
{
    if (count > positional) {
        PyErr_Format(PyExc_TypeError, "takes %zd positional arguments at most", positional);
        return -1;
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        found[i] = args[i];
    }
    Py_ssize_t named = names == NULL ? 0 : PyTuple_GET_SIZE(names);
    for (Py_ssize_t i = 0; i < named; i++) {
        PyObject *name = PyTuple_GET_ITEM(names, i);
        Py_ssize_t which = 0;
        while (which < 2 && (wanted[which] == NULL || PyUnicode_CompareWithASCIIString(name, wanted[which]) != 0)) {
            which++;
        }
        if (which == 2 || which < count) {
            PyErr_Format(PyExc_TypeError, "unexpected or repeated argument '%U'", name);
            return -1;
        }
        found[which] = args[count + i];
    }
    return 0;
}

/* A time in ns, now for None; 0, or -1 with an error. */
static int
read_time(PyObject *given, uint64_t *time)
{
    if (given == Py_None) {
        *time = now_ns();
        return 0;
    }
    *time = PyLong_AsUnsignedLongLong(given);
    return *time == (uint64_t)-1 && PyErr_Occurred() ? -1 : 0;
}

/* -- begin ----------------------------------------------------------------------------------------------- */
int
step_begin(HotSteps *self, PyObject *number, uint64_t start)
{
    if (self->open || self->flight == NULL || self->flight != STATE(flight) || number != Py_None || area_of(self) == NULL) {
        PyObject *at = PyLong_FromUnsignedLongLong(start), *done = NULL;
        if (at != NULL) {
            done = PyObject_CallMethodObjArgs((PyObject *)self, name_begin, number, at, NULL);
            Py_DECREF(at);
        }
        Py_XDECREF(done);
        return done == NULL ? -1 : 0;
    }
    self->serial++;
    self->count = self->begun = self->marked = 0;
    self->start_ns = self->step_start = start;
    self->provisional_end = 0;
    self->claimed = 0;
    steps_drop_stack(self);
    Py_CLEAR(self->route);
    Py_CLEAR(self->context);
    Py_CLEAR(self->attributes);
    Py_CLEAR(self->token);
    if (steps_look_outside(self) < 0) {
        return -1;
    }
    char *area = area_of(self);
    if (area == NULL) {
        return 0;
    }
    self->open = 1;
    memset(area + HEAD_BYTES, 0, COUNT_BYTES);
    Head *head = (Head *)area;
    memset(head, 0, offsetof(Head, seq));
    head->kind = KIND_STEP;
    head->slot = NO_SLOT;
    head->thread = thread_number();
    head->start = start;
    head->aux = self->number;
    publish(&head->seq, 1);
    return 0;
}

PyObject *
step_begin_called(HotSteps *self, PyObject *const *args, Py_ssize_t count, PyObject *names)
{
    static const char *const wanted[2] = {"number", "start_ns"};
    PyObject *found[2] = {Py_None, Py_None};
    uint64_t start;
    if (wiring.state == NULL) {
        return PyErr_Format(PyExc_RuntimeError, "begin() before wire()");
    }
    if (sort_arguments(args, count, names, wanted, 2, found) < 0) {
        return NULL;
    }
    if (self->open) { /* it is closed first, at its provisional end where no time is given */
        return PyObject_CallMethodObjArgs((PyObject *)self, name_begin, found[0], found[1], NULL);
    }
    if (read_time(found[1], &start) < 0 || step_begin(self, found[0], start) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

/* -- end ------------------------------------------------------------------------------------------------- */
PyObject *
step_mark_end_called(HotSteps *self, PyObject *const *args, Py_ssize_t count, PyObject *names)
{
    static const char *const wanted[2] = {"at_ns", NULL};
    PyObject *found[2] = {Py_None, Py_None};
    uint64_t end;
    if (sort_arguments(args, count, names, wanted, 1, found) < 0 || read_time(found[0], &end) < 0) {
        return NULL;
    }
    char *area = self->open ? area_of(self) : NULL;
    if (area != NULL) {
        self->provisional_end = end;
        self->marked = self->count;
        publish(&((Head *)area)->end, end);
    }
    Py_RETURN_NONE;
}

/* Writes a cell of the ring, its head but for what `head` leaves to it. */
static void
write_cell(Writer *writer, Head head, const Count *count, const char *payload)
{
    uint64_t seq;
    Head *cell = next_cell(writer, &seq);
    char *to = (char *)(cell + 1);
    size_t before = count == NULL ? 0 : sizeof *count;
    if (count != NULL) {
        memcpy(to, count, sizeof *count);
    }
    memcpy(to + before, payload, head.size - before);
    memcpy(cell, &head, offsetof(Head, seq));
    publish(&cell->seq, seq + 1);
}

/* Writes the record of a step of `kept` entries as Flight.write does: what the first cell does not hold goes before. */
static void
write_step(HotSteps *self, Writer *writer, const char *entries, unsigned int kept, uint64_t end, int flags)
{
    unsigned int begun = self->begun - (self->count - kept);
    Count count = {(uint16_t)kept, 0, begun > kept ? begun : kept};
    unsigned int size = COUNT_BYTES + kept * ENTRY_BYTES;
    Head part = {.kind = KIND_PART, .slot = NO_SLOT, .start = self->step_start};
    for (unsigned int first = CELL_PAYLOAD; first < size; first += CELL_PAYLOAD) {
        part.size = (uint16_t)(size - first < CELL_PAYLOAD ? size - first : CELL_PAYLOAD);
        write_cell(writer, part, NULL, entries + first - COUNT_BYTES);
        part.aux++;
    }
    Head head = {.kind = KIND_STEP, .flags = (uint8_t)flags, .slot = NO_SLOT, .thread = thread_number()};
    head.size = (uint16_t)(size < CELL_PAYLOAD ? size : CELL_PAYLOAD);
    head.parts = (uint16_t)part.aux;
    head.start = self->step_start;
    head.aux = self->number;
    head.end = end;
    write_cell(writer, head, &count, entries);
}

/* Ends a step that has no attributes and leaves nothing to the next one; 0 where this is none. */
static int
close_plainly(HotSteps *self, uint64_t end, int flags)
{
    char *area = area_of(self);
    Writer *writer = self->flight == NULL ? NULL : writer_of(self->flight);
    unsigned int kept = self->count;
    if (area == NULL || writer == NULL || (self->attributes != NULL && PyDict_GET_SIZE(self->attributes) > 0)) {
        return 0;
    }
    if (end == 0 && self->provisional_end != 0) {
        end = self->provisional_end;
        kept = self->marked;
    }
    end = end ? end : now_ns();
    Entry *entries = (Entry *)(area + HEAD_BYTES + COUNT_BYTES);
    if (kept > self->count || self->count > AREA_ENTRIES) {
        return 0;
    }
    for (unsigned int i = kept; i < self->count; i++) {
        if (entries[i].start >= end) {
            return 0;
        }
    }
    for (Py_ssize_t i = 0; i < self->depth; i++) {
        if (self->stack[i].index < kept) {
            publish(&entries[self->stack[i].index].end, end);
        }
    }
    write_step(self, writer, (const char *)entries, kept, end, flags);
    self->open = 0;
    publish(&((Head *)area)->seq, 0);
    self->number++;
    return 1;
}

PyObject *
step_close_called(HotSteps *self, PyObject *const *args, Py_ssize_t count, PyObject *names)
{
    static const char *const wanted[2] = {"at_ns", "skipped"};
    PyObject *found[2] = {Py_None, Py_False};
    uint64_t end = 0;
    if (sort_arguments(args, count, names, wanted, 1, found) < 0 ||
        (found[0] != Py_None && read_time(found[0], &end) < 0)) {
        return NULL;
    }
    int skipped = PyObject_IsTrue(found[1]);
    if (skipped < 0) {
        return NULL;
    }
    if (self->open && !close_plainly(self, end, skipped ? FLAG_SKIPPED : 0)) {
        return PyObject_CallMethodObjArgs((PyObject *)self, name_close, found[0], skipped ? Py_True : Py_False, NULL);
    }
    Py_RETURN_NONE;
}

int
step_names(void)
{
    return (name_begin = PyUnicode_InternFromString("_begin")) != NULL &&
                   (name_close = PyUnicode_InternFromString("_close")) != NULL
               ? 0
               : -1;
}
