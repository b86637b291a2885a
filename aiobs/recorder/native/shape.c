/* The packing of attribute values. */
#include "core.h"

static PyObject *
shape_new(PyTypeObject *type, PyObject *args, PyObject *Py_UNUSED(named))
{
    const char *letters;
    unsigned int schema;
    Py_ssize_t count, fixed = 0;
    if (!PyArg_ParseTuple(args, "s#I", &letters, &count, &schema)) {
        return NULL;
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        const char *known = letters[i] ? strchr("qdbsj", letters[i]) : NULL;
        if (known == NULL) {
            PyErr_SetString(PyExc_ValueError, "letters: only q, d, b, s and j");
            return NULL;
        }
        fixed += *known == 'b' ? 1 : *known == 'q' || *known == 'd' ? 8 : 2;
    }
    Shape *self = (Shape *)type->tp_alloc(type, count);
    if (self != NULL) {
        self->schema = schema;
        self->count = count;
        self->fixed = fixed;
        memcpy(self->letters, letters, (size_t)count);
    }
    return (PyObject *)self;
}

Py_ssize_t
shape_write(const Shape *shape, char *to, Py_ssize_t room, PyObject *const *values, Py_ssize_t count)
{
    Py_ssize_t used = shape->fixed;
    if (count != shape->count || used > room) {
        return -1;
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *value = values[i];
        if (shape->letters[i] == 'q') {
            int overflow;
            if (!PyLong_CheckExact(value)) {
                return -1;
            }
            int64_t number = PyLong_AsLongLongAndOverflow(value, &overflow);
            if (overflow) {
                return -1;
            }
            memcpy(to, &number, 8);
            to += 8;
        } else if (shape->letters[i] == 'd') {
            if (!PyFloat_CheckExact(value)) {
                return -1;
            }
            double number = PyFloat_AS_DOUBLE(value);
            memcpy(to, &number, 8);
            to += 8;
        } else if (shape->letters[i] == 'b') {
            if (!PyBool_Check(value)) {
                return -1;
            }
            *to++ = value == Py_True;
        } else {
            Py_ssize_t length;
            const char *text = PyUnicode_CheckExact(value) ? PyUnicode_AsUTF8AndSize(value, &length) : NULL;
            if (text == NULL) {
                PyErr_Clear(); /* a lone surrogate */
                return -1;
            }
            if (length > room - used || length > UINT16_MAX) {
                return -1;
            }
            uint16_t size = (uint16_t)length;
            memcpy(to, &size, 2);
            to += 2;
            used += length;
        }
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        if (shape->letters[i] == 's' || shape->letters[i] == 'j') {
            Py_ssize_t length;
            const char *text = PyUnicode_AsUTF8AndSize(values[i], &length); /* kept by the text since a moment ago */
            memcpy(to, text, (size_t)length);
            to += length;
        }
    }
    return used;
}

static PyObject *
shape_call(Shape *self, PyObject *args, PyObject *Py_UNUSED(named))
{
    PyObject *given, *fast, *packed = NULL;
    if (!PyArg_ParseTuple(args, "O", &given) || (fast = PySequence_Fast(given, "values: an iterable")) == NULL) {
        return NULL;
    }
    PyObject *const *values = PySequence_Fast_ITEMS(fast);
    Py_ssize_t count = PySequence_Fast_GET_SIZE(fast), room = self->fixed;
    for (Py_ssize_t i = 0; i < count; i++) {
        Py_ssize_t length;
        if (PyUnicode_Check(values[i])) {
            if (PyUnicode_AsUTF8AndSize(values[i], &length) == NULL) {
                PyErr_Clear();
                length = 0; /* shape_write refuses it */
            }
            room += length;
        }
    }
    packed = PyBytes_FromStringAndSize(NULL, room);
    if (packed != NULL) {
        Py_ssize_t used = shape_write(self, PyBytes_AS_STRING(packed), room, values, count);
        if (used < 0) {
            Py_INCREF(Py_None);
            Py_SETREF(packed, Py_None);
        } else if (used != room) {
            _PyBytes_Resize(&packed, used);
        }
    }
    Py_DECREF(fast);
    return packed;
}

PyTypeObject ShapeType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "aiobs.recorder._core.Shape",
    .tp_doc = "Shape(letters, schema): packs values of these types; None where theirs are others.",
    .tp_basicsize = sizeof(Shape),
    .tp_itemsize = 1,
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_new = shape_new,
    .tp_call = (ternaryfunc)shape_call,
};
