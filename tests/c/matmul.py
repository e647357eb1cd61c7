"""Compares layers with NumPy's matrix product in f64, through ctypes, and every ISA with the others, bit for bit.

How far may they be apart? An output is K fused multiply-adds in f32, each rounded once, so with u = 2^-24 it is within
K u / (1 - K u) times the sum of the magnitudes, |bias| + sum of |x| |w|, of the true value; the residual adds one more
rounding of a sum that is greater by |residual|. f64's own error is 2^-29 of that. relu and clamp are exact and bring values
no farther apart; sigmoid and tanh do not either, and are themselves within 1.1 ulp.
"""

import ctypes
import itertools
import sys

import numpy as np

F32 = ctypes.POINTER(ctypes.c_float)
SIZE = ctypes.c_size_t
IDENTITY, RELU, CLAMP, SIGMOID, TANH = range(5)
AUTO, SCALAR = range(2)


class Desc(ctypes.Structure):
    _fields_ = [(name, SIZE) for name in "struct_size in_channels out_channels groups stride_h stride_w".split()]
    _fields_ += [("activation", ctypes.c_int32), ("param_a", ctypes.c_float), ("param_b", ctypes.c_float)]
    _fields_ += [("isa", ctypes.c_int32)]


class Nhwc(ctypes.Structure):
    _fields_ = [("data", F32)]
    _fields_ += [(name, SIZE) for name in "n h w c batch_stride row_stride pixel_stride".split()]


pw = ctypes.CDLL(sys.argv[1])
pw.pw_last_error.restype = ctypes.c_char_p
pw.pw_conv_destroy.argtypes = pw.pw_pool_destroy.argtypes = [ctypes.c_void_p]
pw.pw_conv_destroy.restype = pw.pw_pool_destroy.restype = None


def check(status):
    if status != 0:
        raise RuntimeError(pw.pw_last_error().decode())


def view(array):
    """A view of an array whose channels lie side by side."""
    strides = [stride // array.itemsize for stride in array.strides[:3]]
    return Nhwc(array.ctypes.data_as(F32), *array.shape, *strides)


def convolve(x, weights, bias, residual, y, stride, activation, pool, isa=AUTO):
    desc = Desc(ctypes.sizeof(Desc), x.shape[3], len(weights), 1, stride, stride, activation, -0.5, 1.5, isa)
    conv = ctypes.c_void_p()
    check(pw.pw_conv_f32_create(ctypes.byref(desc), weights.ctypes, bias.ctypes, ctypes.byref(conv)))
    added = None if residual is None else ctypes.byref(view(residual))
    check(pw.pw_conv_f32_run(conv, ctypes.byref(view(x)), added, ctypes.byref(view(y)), pool))
    pw.pw_conv_destroy(conv)


ACTIVATIONS = {
    IDENTITY: lambda v: v,
    RELU: lambda v: np.maximum(v, 0),
    CLAMP: lambda v: np.clip(v, -0.5, 1.5),
    SIGMOID: lambda v: 1 / (1 + np.exp(-v)),
    TANH: np.tanh,
}

# Height and width, K, F, stride, activation, residual.
LAYERS = [
    (56, 64, 64, 1, RELU, False),
    (56, 64, 256, 1, RELU, True),
    (28, 512, 128, 1, RELU, False),
    (28, 256, 512, 2, IDENTITY, False),
    (14, 1024, 256, 1, RELU, False),
    (7, 2048, 512, 1, RELU, False),
    (7, 512, 2048, 1, RELU, True),
    (28, 192, 16, 1, RELU, False),
    (112, 16, 96, 1, CLAMP, False),
    (14, 144, 24, 1, IDENTITY, True),
    (1, 2048, 1000, 1, IDENTITY, False),
    (28, 64, 1, 1, SIGMOID, False),
    (14, 96, 40, 1, TANH, True),
]

available, count = (ctypes.c_int32 * 4)(), SIZE()
check(pw.pw_isa_available(available, SIZE(4), ctypes.byref(count)))
isas = [isa for isa in available[: count.value] if isa != SCALAR]
random = np.random.default_rng(1)
pool = ctypes.c_void_p()
check(pw.pw_pool_create(SIZE(2), ctypes.byref(pool)))
for (size, k, f, stride, activation, has_residual), padded in itertools.product(LAYERS, [False, True]):
    values = lambda *shape: random.standard_normal(shape, dtype=np.float32)
    gap = 5 if padded else 0
    out = -(-size // stride)
    x, weights, bias = values(2, size, size, k + gap)[..., :k], values(f, k), values(f)
    residual = values(2, out, out, f + gap)[..., :f] if has_residual else None
    y = np.full((2, out, out, f + gap), np.nan, np.float32)
    convolve(x, weights, bias, residual, y[..., :f], stride, activation, pool if padded else None)
    assert np.isnan(y[..., f:]).all(), "written between the pixels"
    for isa in isas:
        again = np.full_like(y, np.nan)
        convolve(x, weights, bias, residual, again[..., :f], stride, activation, None, isa)
        assert again.tobytes() == y.tobytes(), f"other bits on ISA {isa}"

    pixels, w, b = (array.astype(np.float64) for array in (x[:, ::stride, ::stride], weights, bias))
    r = 0.0 if residual is None else residual.astype(np.float64)
    expected = ACTIVATIONS[activation](pixels @ w.T + b + r)
    magnitude = np.abs(pixels) @ np.abs(w.T) + np.abs(b) + np.abs(r)
    ku = (k + has_residual + 1) * 2.0**-24  # 1 more for all that is of second order
    tolerance = ku / (1 - ku) * magnitude
    if activation in (SIGMOID, TANH):
        tolerance += 1.1 * np.spacing(np.abs(expected).astype(np.float32))
    used = (np.abs(y[..., :f] - expected) / tolerance).max()
    print(f"{size:3} x {size:<3} K {k:4} F {f:4} stride {stride}: at most {used:.3f} of the tolerance")
    assert used <= 1
pw.pw_pool_destroy(pool)
print(f"{2 * len(LAYERS)} passed, 0 failed")
