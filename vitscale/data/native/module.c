/* The Python face of the core: buffers in, views out, the interpreter free to run meanwhile. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <jpeglib.h>

#include "core.h"

#define HELD_BYTES (64 << 20) /* files of other formats kept at most for one reply, but for the last */
#define TEXT(x) #x
#define TEXT_OF(x) TEXT(x)

/* What became of a row that is not done. */
struct outcome {
    Py_ssize_t row;
    enum vs_status status;
    char reason[VS_REASON_BYTES];
    uint8_t *data; /* of VS_NOT_MINE */
    size_t bytes;
};

/* One call of fill: what is asked, the memory of the work, and what came out. */
struct job {
    const int32_t *handles, *sizes, *boxes;
    const int64_t *offsets;
    const uint32_t *lengths, *crcs;
    const uint8_t *mirrored;
    uint8_t *out;
    int height, width, shrink, simd;
    Py_ssize_t next, rows;
    struct vs_jpeg *jpeg;
    struct vs_resizer resizer;
    struct vs_buffer buffer;
    struct outcome *outcomes;
    Py_ssize_t count;
    size_t held;
    double read_s, decode_s;
};

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

static struct vs_view view_of(const struct job *job, Py_ssize_t row) {
    const int32_t *box = job->boxes + 4 * row, *size = job->sizes + 2 * row;
    return (struct vs_view){
        .box = {box[0], box[1], box[2], box[3]},
        .width = job->width,
        .height = job->height,
        .mirrored = job->mirrored[row],
        .shrink = job->shrink,
        .known_width = size[0],
        .known_height = size[1],
    };
}

/* Hand the buffer over with the outcome instead of copying it. */
static void keep_data(struct job *job, struct outcome *outcome, size_t bytes) {
    outcome->data = job->buffer.data;
    outcome->bytes = bytes;
    job->held += bytes;
    job->buffer = (struct vs_buffer){0};
}

static void do_row(struct job *job, Py_ssize_t row) {
    struct outcome *outcome = &job->outcomes[job->count];
    struct vs_file file = {job->handles[row], job->offsets[row], job->lengths[row], job->crcs[row]};
    struct vs_view view = view_of(job, row);
    size_t slot = (size_t)job->height * (size_t)job->width * 3;
    uint8_t *out = job->out + slot * (size_t)row;
    double begin = now();
    enum vs_status status = vs_read(&file, &job->buffer, job->simd, outcome->reason);
    double middle = now();
    if (status == VS_DONE)
        status = vs_jpeg_view(job->jpeg, &job->resizer, job->buffer.data, file.bytes, &view, out,
                              outcome->reason);
    job->read_s += middle - begin;
    job->decode_s += now() - middle;
    if (status == VS_DONE) return;
    memset(out, 0, slot);
    outcome->row = row;
    outcome->status = status;
    if (status == VS_NOT_MINE) keep_data(job, outcome, file.bytes);
    job->count++;
}

static void run_job(struct job *job) {
    while (job->next < job->rows && job->held < HELD_BYTES) do_row(job, job->next++);
}

static int begin_job(struct job *job) {
    vs_resizer_init(&job->resizer, job->simd);
    job->jpeg = vs_jpeg_new(job->simd);
    size_t rows = (size_t)(job->rows - job->next);
    job->outcomes = calloc(rows ? rows : 1, sizeof *job->outcomes);
    if (job->jpeg && job->outcomes) return 0;
    PyErr_NoMemory();
    return -1;
}

static void end_job(struct job *job) {
    for (Py_ssize_t i = 0; i < job->count; i++) free(job->outcomes[i].data);
    free(job->outcomes);
    free(job->buffer.data);
    vs_resizer_free(&job->resizer);
    vs_jpeg_free(job->jpeg);
}

/* (next row, read seconds, decode seconds, [(row, reason or file)]) */
static PyObject *reply_of(const struct job *job) {
    PyObject *list = PyList_New(job->count);
    if (!list) return NULL;
    for (Py_ssize_t i = 0; i < job->count; i++) {
        const struct outcome *outcome = &job->outcomes[i];
        PyObject *pair =
            outcome->status == VS_BAD
                ? Py_BuildValue("(nN)", outcome->row,
                                PyUnicode_DecodeUTF8(outcome->reason,
                                                     (Py_ssize_t)strlen(outcome->reason), "replace"))
                : Py_BuildValue("(ny#)", outcome->row, (const char *)outcome->data,
                                (Py_ssize_t)outcome->bytes);
        if (!pair) {
            Py_DECREF(list);
            return NULL;
        }
        PyList_SetItem(list, i, pair);
    }
    return Py_BuildValue("(nddN)", job->next, job->read_s, job->decode_s, list);
}

/* Whether a buffer holds `items` numbers of `bytes` each. */
static int holds(const Py_buffer *buffer, const char *name, Py_ssize_t items, Py_ssize_t bytes) {
    if (buffer->len == items * bytes) return 1;
    PyErr_Format(PyExc_ValueError, "%s has %zd bytes, expected %zd", name, buffer->len, items * bytes);
    return 0;
}

/* Whether `shape` is that of views: [rows, height, width, 3]. */
static int views_fit(const Py_buffer *out, Py_ssize_t rows, int height, int width) {
    if (height < 1 || height > VS_MAX_OUTPUT || width < 1 || width > VS_MAX_OUTPUT) {
        PyErr_Format(PyExc_ValueError, "views of %d x %d px; sides must be 1 to %d", width, height,
                     VS_MAX_OUTPUT);
        return 0;
    }
    return holds(out, "out", rows * height, (Py_ssize_t)width * 3);
}

PyDoc_STRVAR(fill_doc, "fill(out, shape, handles, offsets, lengths, crcs, sizes, boxes, mirrored, shrink, begin, "
                       "simd) -> (next, read_s, decode_s, [(row, reason | file)])");

static PyObject *fill(PyObject *module, PyObject *arguments) {
    enum { OUT, HANDLES, OFFSETS, LENGTHS, CRCS, SIZES, BOXES, MIRRORED, BUFFERS };
    static const struct { const char *name; int items, bytes; } wanted[BUFFERS] = {
        {"out", 0, 1}, {"handles", 1, 4}, {"offsets", 1, 8}, {"lengths", 1, 4},
        {"crcs", 1, 4}, {"sizes", 2, 4}, {"boxes", 4, 4}, {"mirrored", 1, 1},
    };
    Py_buffer b[BUFFERS];
    struct job job = {0};
    PyObject *reply = NULL;
    (void)module;
    if (!PyArg_ParseTuple(arguments, "w*(nii)y*y*y*y*y*y*y*pnp", &b[OUT], &job.rows, &job.height, &job.width,
                          &b[HANDLES], &b[OFFSETS], &b[LENGTHS], &b[CRCS], &b[SIZES], &b[BOXES],
                          &b[MIRRORED], &job.shrink, &job.next, &job.simd))
        return NULL;
    int fits = views_fit(&b[OUT], job.rows, job.height, job.width);
    for (int i = HANDLES; i < BUFFERS && fits; i++)
        fits = holds(&b[i], wanted[i].name, job.rows * wanted[i].items, wanted[i].bytes);
    if (fits && (job.next < 0 || job.next > job.rows)) {
        PyErr_Format(PyExc_ValueError, "begin is row %zd of %zd", job.next, job.rows);
        fits = 0;
    }
    job.out = b[OUT].buf;
    job.handles = b[HANDLES].buf;
    job.offsets = b[OFFSETS].buf;
    job.lengths = b[LENGTHS].buf;
    job.crcs = b[CRCS].buf;
    job.sizes = b[SIZES].buf;
    job.boxes = b[BOXES].buf;
    job.mirrored = b[MIRRORED].buf;
    if (fits && begin_job(&job) == 0) {
        Py_BEGIN_ALLOW_THREADS
        run_job(&job);
        Py_END_ALLOW_THREADS
        reply = reply_of(&job);
    }
    end_job(&job);
    for (int i = 0; i < BUFFERS; i++) PyBuffer_Release(&b[i]);
    return reply;
}

PyDoc_STRVAR(view_doc, "view(data, out, (height, width), (left, upper, right, lower), mirrored, shrink, simd) -> "
                       "reason, \"\" when done, None when it is no grey or colour JPEG");

static PyObject *view(PyObject *module, PyObject *arguments) {
    Py_buffer data, out;
    struct vs_view wanted = {0};
    char reason[VS_REASON_BYTES] = "";
    enum vs_status status = VS_BAD;
    int simd, fits;
    (void)module;
    if (!PyArg_ParseTuple(arguments, "y*w*(ii)(iiii)ppp", &data, &out, &wanted.height, &wanted.width,
                          &wanted.box.left, &wanted.box.upper, &wanted.box.right, &wanted.box.lower,
                          &wanted.mirrored, &wanted.shrink, &simd))
        return NULL;
    fits = views_fit(&out, 1, wanted.height, wanted.width);
    if (fits) {
        Py_BEGIN_ALLOW_THREADS
        struct vs_resizer resizer;
        vs_resizer_init(&resizer, simd);
        struct vs_jpeg *jpeg = vs_jpeg_new(simd);
        if (jpeg)
            status = vs_jpeg_view(jpeg, &resizer, data.buf, (size_t)data.len, &wanted, out.buf, reason);
        else
            strcpy(reason, "no memory for a decoder");
        vs_jpeg_free(jpeg);
        vs_resizer_free(&resizer);
        Py_END_ALLOW_THREADS
    }
    PyBuffer_Release(&data);
    PyBuffer_Release(&out);
    if (!fits) return NULL;
    if (status == VS_NOT_MINE) Py_RETURN_NONE;
    return status == VS_DONE ? PyUnicode_FromString("")
                             : PyUnicode_DecodeUTF8(reason, (Py_ssize_t)strlen(reason), "replace");
}

PyDoc_STRVAR(resize_doc, "resize(rgb, (width, height), out, (height, width), (left, upper, right, lower), mirrored, simd)");

static PyObject *resize(PyObject *module, PyObject *arguments) {
    Py_buffer pixels, out;
    struct vs_view wanted = {0};
    int width, height, simd, fits, failed = 0;
    (void)module;
    if (!PyArg_ParseTuple(arguments, "y*(ii)w*(ii)(iiii)pp", &pixels, &width, &height, &out, &wanted.height,
                          &wanted.width, &wanted.box.left, &wanted.box.upper, &wanted.box.right,
                          &wanted.box.lower, &wanted.mirrored, &simd))
        return NULL;
    fits = views_fit(&out, 1, wanted.height, wanted.width) &&
           holds(&pixels, "pixels", (Py_ssize_t)width * height, 3);
    if (fits && (!vs_box_fits(&wanted.box, width, height) || width > VS_MAX_SIDE || height > VS_MAX_SIDE)) {
        PyErr_Format(PyExc_ValueError, "the box is not in an image of %d x %d px", width, height);
        fits = 0;
    }
    if (fits) {
        Py_BEGIN_ALLOW_THREADS
        struct vs_resizer resizer;
        vs_resizer_init(&resizer, simd);
        failed = vs_resize(&resizer, pixels.buf, width, &wanted, out.buf);
        vs_resizer_free(&resizer);
        Py_END_ALLOW_THREADS
    }
    PyBuffer_Release(&pixels);
    PyBuffer_Release(&out);
    if (!fits) return NULL;
    if (failed) return PyErr_NoMemory();
    Py_RETURN_NONE;
}

PyDoc_STRVAR(plain_doc, "plain_decode(data) -> (RGB bytes, width, height), all of a JPEG by libjpeg-turbo alone");

static PyObject *plain_decode(PyObject *module, PyObject *arguments) {
    Py_buffer data;
    int size[2] = {0, 0};
    char reason[VS_REASON_BYTES] = "no memory, or no JPEG";
    PyObject *pixels = NULL;
    enum vs_status status;
    (void)module;
    if (!PyArg_ParseTuple(arguments, "y*", &data)) return NULL;
    struct vs_jpeg *jpeg = vs_jpeg_new(0);
    status = jpeg ? vs_jpeg_plain(jpeg, data.buf, (size_t)data.len, NULL, 0, size, reason) : VS_BAD;
    Py_ssize_t bytes = (Py_ssize_t)size[0] * size[1] * 3;
    if (status == VS_DONE && bytes <= 3 * (Py_ssize_t)VS_MAX_PIXELS)
        pixels = PyBytes_FromStringAndSize(NULL, bytes);
    if (pixels) {
        uint8_t *into = (uint8_t *)PyBytes_AsString(pixels);
        Py_BEGIN_ALLOW_THREADS
        status = vs_jpeg_plain(jpeg, data.buf, (size_t)data.len, into, (size_t)bytes, size, reason);
        Py_END_ALLOW_THREADS
    }
    vs_jpeg_free(jpeg);
    PyBuffer_Release(&data);
    if (status == VS_DONE && pixels) return Py_BuildValue("(Nii)", pixels, size[0], size[1]);
    Py_XDECREF(pixels);
    if (!PyErr_Occurred()) PyErr_SetString(PyExc_ValueError, reason);
    return NULL;
}

PyDoc_STRVAR(crc_doc, "crc32c(data, simd) -> int");

static PyObject *crc32c(PyObject *module, PyObject *arguments) {
    Py_buffer data;
    int simd;
    (void)module;
    if (!PyArg_ParseTuple(arguments, "y*p", &data, &simd)) return NULL;
    uint32_t crc = vs_crc32c(data.buf, (size_t)data.len, simd);
    PyBuffer_Release(&data);
    return PyLong_FromUnsignedLong(crc);
}

PyDoc_STRVAR(describe_doc, "describe() -> (version of libjpeg-turbo, whether AVX2 is used)");

static PyObject *describe(PyObject *module, PyObject *nothing) {
    (void)module;
    (void)nothing;
    return Py_BuildValue("(sN)", TEXT_OF(LIBJPEG_TURBO_VERSION), PyBool_FromLong(vs_has_simd()));
}

static PyMethodDef methods[] = {
    {"fill", fill, METH_VARARGS, fill_doc},
    {"view", view, METH_VARARGS, view_doc},
    {"resize", resize, METH_VARARGS, resize_doc},
    {"plain_decode", plain_decode, METH_VARARGS, plain_doc},
    {"crc32c", crc32c, METH_VARARGS, crc_doc},
    {"describe", describe, METH_NOARGS, describe_doc},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef_Slot slots[] = {{0, NULL}};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "vitscale.data.native._pixels", NULL, 0, methods, slots, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__pixels(void) { return PyModuleDef_Init(&definition); }
