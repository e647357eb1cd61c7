"""Writes goldens.csv: activations at points where they are hard, to 50 digits.

    pip install mpmath==1.3.0 && python3 tests/goldens.py > tests/goldens.csv

Columns: the activation; its parameters, `a` and `b`; the bits of the input; the bits of the result, rounded to the
nearest f32 once (ties to even); the result in decimal. Limits stand for the results at infinities.
"""

import struct

from mpmath import erfc, exp, expm1, floor, frexp, inf, isinf, ldexp, log1p, mp, mpf, nstr, pi, sqrt, tanh

# The longest cancellation, of 1 + tanh(u) in `gelu_tanh`, costs 90 digits.
mp.dps = 150

TRUTH = {
    "identity": lambda x, a, b: x,
    "relu": lambda x, a, b: max(x, mpf(0)),
    "clamp": lambda x, a, b: min(max(x, a), b),
    "sigmoid": lambda x, a, b: 1 / (1 + exp(-x)),
    "tanh": lambda x, a, b: tanh(x),
    "leaky_relu": lambda x, a, b: a * x if x < 0 else x,
    "hard_sigmoid": lambda x, a, b: min(max(a * x + b, mpf(0)), mpf(1)),
    "hard_swish": lambda x, a, b: x * min(max(x / 6 + mpf(1) / 2, mpf(0)), mpf(1)),
    "swish": lambda x, a, b: x / (1 + exp(-a * x)),
    "gelu": lambda x, a, b: x * erfc(-x / sqrt(mpf(2))) / 2,
    "gelu_tanh": lambda x, a, b: x * (1 + tanh(sqrt(2 / pi) * (x + mpf("0.044715") * x**3))) / 2,
    "elu": lambda x, a, b: a * expm1(x) if x < 0 else x,
    "softplus": lambda x, a, b: log1p(exp(-abs(x))) + max(x, mpf(0)),
    "mish": lambda x, a, b: x * tanh(log1p(exp(x))),
}

# At -inf and at inf; all others are infinite where x is.
LIMITS = {
    "relu": lambda a, b: (0, inf),
    "clamp": lambda a, b: (a, b),
    "sigmoid": lambda a, b: (0, 1),
    "tanh": lambda a, b: (-1, 1),
    "leaky_relu": lambda a, b: (-inf if a > 0 else inf, inf),
    "hard_sigmoid": lambda a, b: (0, 1) if a > 0 else (1, 0),
    "hard_swish": lambda a, b: (0, inf),
    "swish": lambda a, b: (0, inf) if a > 0 else (-inf, 0),
    "gelu": lambda a, b: (0, inf),
    "gelu_tanh": lambda a, b: (0, inf),
    "elu": lambda a, b: (-a, inf),
    "softplus": lambda a, b: (0, inf),
    "mish": lambda a, b: (0, inf),
}

# Where the formulas branch, where results become denormal and where they end.
EDGES = {
    "clamp": [6.0, -1.0],
    "sigmoid": [-87.3, -88.7, -103.97, -104.0, 16.6],
    "tanh": [0.7, -0.69999993, 9.01, 10.0],
    "hard_sigmoid": [2.5, -2.4999998, -2.5, 3.0, -2.9999998],
    "hard_swish": [-3.0, -2.9999998, 3.0, 2.9999998],
    "swish": [-20.1, -87.4, -91.8, -103.0, -108.0, 20.1, 17.3, 53.0, 1234.5],
    "gelu": [0.5, 0.49999997, -0.5, -0.49999997, -5.5, -12.0, -13.0, -14.1, -14.3, -14.5],
    "gelu_tanh": [-5.0, -9.0, -10.0, -10.12, -10.7, -11.0, 4.9, 5.1],
    "elu": [-0.35, -0.34, -17.3, -20.0, -25.0],
    "softplus": [-0.35, 0.34, -17.3, -87.3, -103.9, -104.1, 17.3, 88.0],
    "mish": [-20.0, -87.0, -92.0, -108.0, -110.5, 7.1, 20.0, 20.5],
}

COMMON = [
    0.0, -0.0, 1e-45, -1e-45, 1e-39, -1e-39, 1.1754944e-38, -1.1754944e-38, 1e-20, -1e-20, 1e-5, -1e-5, 0.01, -0.01,
    0.3, -0.3, 0.75, -0.75, 1.0, -1.0, 1.7, -1.7, 2.3, -2.3, 3.9, -3.9, 6.5, -6.5, 30.0, -30.0, 3e38, -3e38,
    float("inf"), float("-inf"),
]

ACTIVATIONS = [
    ("identity",), ("relu",), ("clamp", 0.0, 6.0), ("sigmoid",), ("tanh",),
    ("leaky_relu", 0.01), ("hard_sigmoid", 0.2, 0.5), ("hard_sigmoid", 1 / 6, 0.5), ("hard_swish",),
    ("swish", 1.0), ("swish", 1.702), ("swish", -0.03), ("gelu",), ("gelu_tanh",),
    ("elu", 1.0), ("elu", 1.6732632), ("softplus",), ("mish",),
]  # fmt: skip


def bits(x):
    """The bits of the f32 nearest to a Python float."""
    return struct.unpack("<I", struct.pack("<f", x))[0]


def value(bits):
    return struct.unpack("<f", struct.pack("<I", bits))[0]


def rounded(y):
    """The bits of the f32 nearest to `y`, rounded once: through an integer number of its ulp."""
    if y == 0 or isinf(y):
        return bits(float(y))
    ulp = max(frexp(abs(y))[1] - 24, -149)
    scaled = ldexp(abs(y), -ulp)
    whole = int(floor(scaled))
    rest = scaled - whole
    whole += rest > mpf(1) / 2 or (rest == mpf(1) / 2 and whole % 2 == 1)
    return bits(float(ldexp(mpf(whole), ulp)) * (1 if y > 0 else -1))


def main():
    print("activation,a,b,input,result,decimal")
    for name, *parameters in ACTIVATIONS:
        a, b = (bits(p) for p in [*parameters, 0.0, 0.0][:2])
        for x in dict.fromkeys(bits(x) for x in COMMON + EDGES.get(name, [])):
            exact = [mpf(value(v)) for v in (x, a, b)]
            if isinf(exact[0]):
                limits = LIMITS.get(name, lambda a, b: (-inf, inf))
                y = mpf(limits(*exact[1:])[exact[0] > 0])
            else:
                y = TRUTH[name](*exact)
            print(f"{name},{a:08x},{b:08x},{x:08x},{rounded(y):08x},{nstr(y, 50)}")


main()
