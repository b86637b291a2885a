/* Begin and end of a span. What only some spans have is left to the methods of the Python class on top. */
#include "span.h"

static PyObject *name_begin, *name_end_whole, *name_fail;

/* -- which shape do these keys have ---------------------------------------------------------------------- */
/* Keys come from the call site's constants, so the same tuple means the same call: a look by identity replaces
   hashing it. Entries own what they name, so that an address never means two things. */
enum { REMEMBERED = 256 };
static struct {
    PyObject *family, *keys;
    Shape *shape;
} remembered[REMEMBERED];

static inline size_t
place_of(PyObject *family, PyObject *keys)
{
    uintptr_t mixed = ((uintptr_t)family >> 4) * 31 + ((uintptr_t)keys >> 4);
    return (mixed ^ mixed >> 8) % REMEMBERED;
}

static void
remember(PyObject *family, PyObject *keys, Shape *shape)
{
    size_t i = place_of(family, keys);
    PyObject *old_family = remembered[i].family, *old_keys = remembered[i].keys;
    Shape *old_shape = remembered[i].shape;
    Py_XINCREF(family);
    Py_XINCREF(keys);
    Py_XINCREF(shape);
    remembered[i].family = family;
    remembered[i].keys = keys;
    remembered[i].shape = shape;
    Py_XDECREF(old_family);
    Py_XDECREF(old_keys);
    Py_XDECREF(old_shape);
}

void
forget_shapes(void)
{
    for (size_t i = 0; i < REMEMBERED; i++) {
        Py_CLEAR(remembered[i].family);
        Py_CLEAR(remembered[i].keys);
        Py_CLEAR(remembered[i].shape);
    }
}

/* The form that these keys had last in the family, where its values are packed as they are; borrowed. */
static Shape *
recent_shape(PyObject *family, PyObject *keys)
{
    PyObject *recent = SLOT(family, wiring.family_recent), *form, *exact, *pack;
    Shape *found = NULL;
    if (recent == NULL || !PyDict_CheckExact(recent) || (form = PyDict_GetItemWithError(recent, keys)) == NULL) {
        PyErr_Clear();
        return NULL;
    }
    exact = PyObject_GetAttrString(form, "exact");
    pack = PyObject_GetAttrString(form, "pack");
    if (exact == Py_True && pack != NULL && Py_IS_TYPE(pack, &ShapeType)) {
        found = (Shape *)pack;
        remember(family, keys, found);
    }
    PyErr_Clear();
    Py_XDECREF(exact);
    Py_XDECREF(pack);
    return found; /* owned by `remembered` */
}

/* Writes the attributes span() was given; their bytes, or -1 where the Python side has to do it. */
static Py_ssize_t
write_given(HotSpan *self, char *to, uint32_t *schema)
{
    size_t i = place_of(self->family, self->keys);
    PyObject *const *values = ((PyTupleObject *)self->values)->ob_item;
    Py_ssize_t count = PyTuple_GET_SIZE(self->values), size = -1;
    Shape *shape = remembered[i].shape;
    if (LIKELY(remembered[i].family == self->family && remembered[i].keys == self->keys)) {
        size = shape_write(shape, to, CELL_PAYLOAD, values, count);
    }
    if (size < 0 && (shape = recent_shape(self->family, self->keys)) != NULL) {
        size = shape_write(shape, to, CELL_PAYLOAD, values, count);
    }
    if (size >= 0) {
        *schema = shape->schema;
    }
    return size;
}

/* -- begin ----------------------------------------------------------------------------------------------- */
/* The slot freed last; there must be one. */
static PyObject *
take_slot(Writer *writer)
{
    PyObject *free = writer->free;
    Py_ssize_t last = PyList_GET_SIZE(free) - 1;
    PyObject *pair = PyList_GET_ITEM(free, last);
    Py_SET_SIZE(free, last); /* as list.pop() does while the list is far from empty */
    return pair;
}

/* Counts a span at the top that joined the process's trace, or stayed outside; 0 where the numbers are odd. */
static int
count_one(Py_ssize_t offset)
{
    PyObject *before = SLOT(wiring.state, offset);
    PyObject *after = before != NULL && PyLong_CheckExact(before) ? PyLong_FromLong(PyLong_AsLong(before) + 1) : NULL;
    if (after == NULL) {
        PyErr_Clear();
        return 0;
    }
    SLOT(wiring.state, offset) = after;
    Py_DECREF(before);
    return 1;
}

/* Where a span at the top belongs: to the process's trace while there is room, else to one of its own. */
static int
place_at_top(Place *place)
{
    static PyObject *known_ambient; /* owned, so that its address means it */
    static Place known;
    PyObject *ambient = STATE(ambient), *joined = STATE(joined), *limit = STATE(join_limit);
    if (ambient != Py_None) {
        if (ambient == NULL || !PyLong_CheckExact(joined) || !PyLong_CheckExact(limit)) {
            return 0;
        }
        if (PyLong_AsLong(joined) < PyLong_AsLong(limit)) {
            if (ambient != known_ambient) {
                Place read;
                if (!place_of_context(ambient, &read)) {
                    return 0;
                }
                known = read;
                Py_INCREF(ambient);
                Py_XSETREF(known_ambient, ambient);
            }
            *place = known;
            return count_one(wiring.state_joined);
        }
        if (!count_one(wiring.state_outside)) {
            return 0;
        }
    }
    *place = (Place){random_id(), random_id(), 0, KIND_SPAN};
    return 1;
}

/* Finds where the span belongs, what `innermost` in around.py does; `outer` is the span entered last, or NULL. It
   may call Python. 1: found, 0: the Python side has to look, -1: error. */
static int
find_place(HotSpan *self, HotSpan *outer, Place *place)
{
    HotSteps *steps = STATE(surrounded) != Py_False ? steps_here() : NULL;
    PyObject *foreign = STATE(foreign), *inside = NULL;
    uint64_t since = 0;
    if (outer != NULL && (outer->flight == NULL || outer->slot == NULL)) {
        return 0;
    }
    if (steps != NULL && steps_open(steps, &since, &inside)) {
        Writer *writer = outer == NULL ? NULL : writer_of(outer->flight);
        Py_ssize_t at = writer == NULL ? 0 : PyLong_AsSsize_t(PyTuple_GET_ITEM(outer->slot, 0));
        if (outer != NULL && at <= 0) {
            return 0;
        }
        if (outer != NULL && ((Head *)(writer->base + at))->start >= since) {
            steps = NULL; /* begun inside the innermost phase, it comes between that and us */
        }
    } else {
        steps = NULL;
    }
    inside = steps != NULL ? inside : outer != NULL ? outer->foreign : NULL;
    if (foreign != Py_None) {
        PyObject *seen = PyObject_CallNoArgs(foreign);
        if (seen == NULL || !PyTuple_Check(seen) || PyTuple_GET_SIZE(seen) != 2) {
            Py_XDECREF(seen);
            return PyErr_Occurred() ? -1 : 0;
        }
        PyObject *now = PyTuple_GET_ITEM(seen, 0);
        int theirs = PyTuple_GET_ITEM(seen, 1) != Py_None && ((steps == NULL && outer == NULL) || now != inside);
        Py_INCREF(now);
        Py_XSETREF(self->foreign, now);
        Py_DECREF(seen);
        if (theirs) {
            return 0;
        }
    }
    if (steps != NULL) {
        return steps_place(steps, place);
    }
    if (outer != NULL) {
        *place = (Place){outer->trace_high, outer->trace_low, outer->id, outer->lead};
        return 1;
    }
    return place_at_top(place);
}

/* Begins a span of which only name and attributes are special. 1: done, 0: the Python side has to, -1: error. */
static int
begin_plainly(HotSpan *self)
{
    Writer *writer = writer_of(self->flight);
    PyObject *found, *pair, *lead = SLOT(self->family, wiring.family_lead);
    Place place;
    char payload[CELL_PAYLOAD];
    Py_ssize_t size = 0;
    if (writer == NULL || lead == NULL || !PyLong_CheckExact(lead) || self->rest != NULL || self->attributes != NULL) {
        return 0;
    }
    uint32_t schema = (uint32_t)(PyLong_AsUnsignedLongLong(lead) >> 32);
    if (self->values != NULL) {
        size = write_given(self, payload, &schema);
    }
    if (size < 0 || schema == 0) {
        return 0;
    }
    if (PyContextVar_Get(wiring.current, NULL, &found) < 0) {
        return -1;
    }
    if (found == Py_None) {
        Py_CLEAR(found);
    }
    HotSpan *outer = (HotSpan *)found;
    int placed = found == NULL || PyObject_TypeCheck(found, &HotSpanType) ? find_place(self, outer, &place) : 0;
    if (placed <= 0 || PyList_GET_SIZE(writer->free) == 0) {
        Py_XDECREF(found);
        return placed < 0 ? -1 : 0;
    }
    pair = take_slot(writer);
    self->trace_high = place.trace_high;
    self->trace_low = place.trace_low;
    self->lead = place.lead;
    if (outer != NULL && place.span == outer->id && outer->trace_state != NULL) {
        Py_INCREF(outer->trace_state);
        Py_XSETREF(self->trace_state, outer->trace_state);
    }
    self->slot = pair;
    self->size = HEAD_BYTES + size;
    self->id = random_id();
    Head *mark = (Head *)(writer->base + PyLong_AsSsize_t(PyTuple_GET_ITEM(pair, 0)));
    uint64_t first = self->lead | PyLong_AsUnsignedLongLong(PyTuple_GET_ITEM(pair, 1)) | (uint64_t)schema << 32;
    memcpy(mark, &first, sizeof first);
    mark->trace_high = self->trace_high;
    mark->trace_low = self->trace_low;
    mark->span = self->id;
    mark->parent = place.span;
    mark->thread = thread_number();
    mark->size = (uint16_t)size;
    mark->parts = 0;
    mark->start = now_ns();
    mark->aux = mark->end = 0;
    memcpy(mark + 1, payload, (size_t)size);
    publish(&mark->seq, 1);
    Py_XDECREF(found);
    return 1;
}

/* 0: begun or given up, -1: an error that is to be raised. */
static int
begin(HotSpan *self)
{
    int begun = begin_plainly(self);
    if (begun == 0) {
        PyObject *done = PyObject_CallMethodObjArgs((PyObject *)self, name_begin, Py_None, Py_False, Py_None, NULL);
        begun = done == NULL ? -1 : 1;
        Py_XDECREF(done);
    }
    if (begun < 0) {
        Py_CLEAR(self->flight);
        return swallow_fault("recorder.span.begin");
    }
    return 0;
}

PyObject *
span_start(HotSpan *self, PyObject *Py_UNUSED(none))
{
    if (self->flight != NULL && self->slot == NULL && begin(self) < 0) {
        return NULL;
    }
    Py_INCREF(self);
    return (PyObject *)self;
}

PyObject *
span_enter(HotSpan *self, PyObject *Py_UNUSED(none))
{
    if (self->flight != NULL && self->slot == NULL && begin(self) < 0) {
        return NULL;
    }
    if (self->flight != NULL) {
        PyObject *foreign = STATE(foreign);
        if (foreign != NULL && foreign != Py_None && self->foreign == NULL) {
            PyObject *seen = PyObject_CallNoArgs(foreign);
            if (seen != NULL) {
                Py_XSETREF(self->foreign, PySequence_GetItem(seen, 0));
                Py_DECREF(seen);
            }
        }
        PyObject *token = PyErr_Occurred() ? NULL : PyContextVar_Set(wiring.current, (PyObject *)self);
        if (token == NULL) {
            Py_CLEAR(self->flight);
            if (swallow_fault("recorder.span.begin") < 0) {
                return NULL;
            }
        }
        Py_XSETREF(self->entered, token);
    }
    Py_INCREF(self);
    return (PyObject *)self;
}

/* -- end ------------------------------------------------------------------------------------------------- */
/* 0, or -1 with an error that is to be raised. */
static int
finish(HotSpan *self, uint64_t end)
{
    PyObject *flight = self->flight, *pair = self->slot;
    self->flight = NULL;
    if (flight == NULL || pair == NULL) {
        Py_XDECREF(flight);
        return 0;
    }
    Writer *writer = writer_of(flight);
    Py_ssize_t offset = PyLong_AsSsize_t(PyTuple_GET_ITEM(pair, 0));
    int failed = 0;
    if (self->rest == NULL && writer != NULL && offset > 0) {
        /* The mark, whole, is the record; the end is what it lacks. */
        uint64_t seq;
        Head *cell = next_cell(writer, &seq), *mark = (Head *)(writer->base + offset);
        memcpy(cell + 1, mark + 1, (size_t)(self->size - HEAD_BYTES));
        memcpy(cell, mark, offsetof(Head, end));
        cell->end = end;
        publish(&cell->seq, seq + 1);
    } else {
        PyObject *at = PyLong_FromUnsignedLongLong(end), *done = NULL;
        if (at != NULL) {
            done = PyObject_CallMethodObjArgs((PyObject *)self, name_end_whole, flight, PyTuple_GET_ITEM(pair, 0), at, NULL);
            Py_DECREF(at);
        }
        failed = done == NULL ? -1 : 0;
        Py_XDECREF(done);
    }
    if (offset > 0 && writer != NULL) {
        publish(&((Head *)(writer->base + offset))->seq, 0);
        if (PyList_Append(writer->free, pair) < 0 && !failed) {
            PyErr_Clear();
        }
    }
    Py_DECREF(flight);
    return failed;
}

PyObject *
span_end(HotSpan *self, PyObject *const *args, Py_ssize_t count, PyObject *names)
{
    Py_ssize_t named = names == NULL ? 0 : PyTuple_GET_SIZE(names);
    if (count + named > 1 ||
        (named && PyUnicode_CompareWithASCIIString(PyTuple_GET_ITEM(names, 0), "end_ns") != 0)) {
        PyErr_SetString(PyExc_TypeError, "end() takes one argument at most: end_ns");
        return NULL;
    }
    uint64_t end;
    if (count + named == 0 || args[0] == Py_None) {
        end = now_ns();
    } else {
        end = PyLong_AsUnsignedLongLong(args[0]);
        if (end == (uint64_t)-1 && PyErr_Occurred()) {
            return NULL;
        }
    }
    if (finish(self, end) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

PyObject *
span_exit(HotSpan *self, PyObject *const *args, Py_ssize_t count)
{
    if (count != 3) {
        PyErr_SetString(PyExc_TypeError, "__exit__() takes three arguments: type, error, trace");
        return NULL;
    }
    if (self->flight == NULL) {
        Py_RETURN_NONE;
    }
    if (self->entered != NULL) {
        PyObject *token = self->entered;
        self->entered = NULL;
        if (PyContextVar_Reset(wiring.current, token) < 0) {
            /* Closed in another context than it was opened in: an async generator ended by the collector. */
            PyErr_Clear();
        }
        Py_DECREF(token);
    }
    if (args[1] != Py_None && args[0] != PyExc_GeneratorExit) {
        PyObject *done = PyObject_CallMethodObjArgs((PyObject *)self, name_fail, args[1], NULL);
        if (done == NULL) {
            return NULL;
        }
        Py_DECREF(done);
    }
    if (finish(self, now_ns()) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

int
span_names(void)
{
    return (name_begin = PyUnicode_InternFromString("_begin")) != NULL &&
                   (name_end_whole = PyUnicode_InternFromString("_end_whole")) != NULL &&
                   (name_fail = PyUnicode_InternFromString("fail")) != NULL
               ? 0
               : -1;
}
