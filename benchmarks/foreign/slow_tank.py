"""A buffer behind a long pipe: every move goes on for minutes after it was taken back, and nothing ever comes to rest by itself."""

from homeostat import Names, Simulator

AREA_M2, PIPE_S, OUTFLOW_M3_S = 8.0, 240.0, 0.02


class SlowTank(Simulator):
    """Level in m, flows in m3/s: the valve fills two pipe volumes in turn, and they the buffer; a pump takes `OUTFLOW_M3_S`."""

    names = Names(x=("near", "far", "level"), u=("FC1",), d=(), p=("pipe",), y=("LT1",))
    time_unit_s, step_s = 1.0, 5.0
    x0, u0, d0, p0 = (0.02, 0.02, 2.5), (0.02,), (), (1.0,)
    p_range = dict.fromkeys(names.p, (0.5, 2.0))

    def derivative(self, x, u, d, p, xp):
        pipe_s = PIPE_S * p[0]
        return (u[0] - x[0]) / pipe_s, (x[0] - x[1]) / pipe_s, (x[1] - OUTFLOW_M3_S) / AREA_M2

    def outputs(self, x, u, d, p, xp):
        return (x[2],)
