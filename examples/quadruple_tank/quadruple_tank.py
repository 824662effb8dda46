"""Four interconnected tanks, two pumps (Johansson 2000, IEEE Trans. Control Systems Technology 8(3), eqs. 1 to 4).

Each pump feeds a lower tank and, across, the upper tank above the other one. `split1` and `split2` say how much goes straight
down: above 1 in sum the plant is easy to hold (minimum phase), below it every move first goes the wrong way.
"""

from homeostat import Names, Simulator

AREA_CM2 = (28.0, 32.0, 28.0, 32.0)
HOLE_CM2 = (0.071, 0.057, 0.071, 0.057)
G = 981.0  # cm/s2


class QuadrupleTank(Simulator):
    """Levels in cm, pump flows in cm3/s; the operating point and splits of the paper's minimum-phase setting."""

    names = Names(
        x=("h1", "h2", "h3", "h4"),
        u=("FC1", "FC2"),
        d=("leak3", "leak4"),  # cm3/s drawn from the upper tanks
        p=("split1", "split2"),
        y=("LT1", "LT2", "LT3", "LT4"),
    )
    time_unit_s, step_s = 1.0, 1.0
    x0, u0, d0, p0 = (12.4, 12.7, 1.8, 1.4), (9.99, 10.05), (0.0, 0.0), (0.7, 0.6)
    d_range, p_range = dict.fromkeys(names.d, (0.0, 3.0)), dict.fromkeys(names.p, (0.3, 0.8))

    def derivative(self, x, u, d, p, xp):
        out = [a * xp.sqrt(2.0 * G * xp.maximum(h, 1e-6)) for a, h in zip(HOLE_CM2, x, strict=True)]
        return (
            (out[2] + p[0] * u[0] - out[0]) / AREA_CM2[0],
            (out[3] + p[1] * u[1] - out[1]) / AREA_CM2[1],
            ((1.0 - p[1]) * u[1] - out[2] - d[0] * xp.minimum(xp.maximum(x[2], 0.0), 1.0)) / AREA_CM2[2],
            ((1.0 - p[0]) * u[0] - out[3] - d[1] * xp.minimum(xp.maximum(x[3], 0.0), 1.0)) / AREA_CM2[3],
        )

    def outputs(self, x, u, d, p, xp):
        return x[0], x[1], x[2], x[3]

    def envelope(self, x, u, d, p, xp):
        return {f"tank {i + 1} overflows": 20.0 - h for i, h in enumerate(x)}
